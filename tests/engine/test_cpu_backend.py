"""The CPU backend equals the torch oracle, and its results depend on nothing but a request's own tokens."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.laws import requests, said
from octavo.core.errors import ConfigError
from octavo.core.sampling import Sampling
from octavo.engine.cpu_backend import CpuBackend
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Chunk, Copy, Plan, Request
from octavo.models import build, read_config
from octavo.models.packed import PackedModel, Recipe, collect, pack
from octavo.nn.kernels import cpu_flags
from octavo.nn.kernels.build import TIERS
from octavo.nn.kernels.library import open_library

HERE = [name for name, tier in TIERS.items() if cpu_flags().issuperset(tier.needs)]
COMMON = {
    "vocab_size": 300, "hidden_size": 96, "intermediate_size": 144, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip
FAMILIES = {
    "qwen3": COMMON | {"model_type": "qwen3", "tie_word_embeddings": True},
    "qwen2": COMMON | {"model_type": "qwen2", "tie_word_embeddings": False},
    "llama3": COMMON | {"model_type": "llama", "tie_word_embeddings": False, "num_key_value_heads": 4, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
    "yarn": COMMON | {"model_type": "qwen3", "tie_word_embeddings": True, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "qwen3_moe": COMMON | {"model_type": "qwen3_moe", "tie_word_embeddings": False, "num_experts": 8,
                           "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True,
                           "mlp_only_layers": [1]},
}  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES)


class ModuleWeights:
    """The parameters of a torch module, by official names of single experts."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tensors = {name: p.detach().float().numpy() for name, p in model.named_parameters()}

    def numbers(self, name: str) -> np.ndarray:
        if name in self.tensors:
            return self.tensors[name]
        owner, _, expert, leaf, _ = name.rsplit(".", 4)
        stack = self.tensors[f"{owner}.experts.{'down_proj' if leaf == 'down_proj' else 'gate_up_proj'}"][int(expert)]
        half = len(stack) // 2
        return {"gate_proj": stack[:half], "up_proj": stack[half:], "down_proj": stack}[leaf]

    def quantised(self, name: str) -> None:
        return None


def model_of(family: str) -> torch.nn.Module:
    torch.manual_seed(1)
    model = build(FAMILIES[family])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.08)
        parameter.data = parameter.data.bfloat16().float()  # so that packing as bf16 loses nothing
    return model


def packed(family: str, recipe: Recipe = "bf16") -> PackedModel:
    return collect(read_config(FAMILIES[family]), pack(read_config(FAMILIES[family]),
                   ModuleWeights(model_of(family)), recipe=recipe))  # fmt: skip


def whole(backend, tokens: tuple[int, ...]) -> np.ndarray:
    pages = tuple(range(-(-len(tokens) // backend.page_tokens)))
    return backend.forward(Plan(chunks=(Chunk(tokens=tokens, start=0, pages=pages, rows="all"),)))


def spread(logits_NV: np.ndarray) -> float:
    return float(logits_NV.std())


@every_family
@pytest.mark.parametrize("tier", HERE)
def test_it_equals_the_torch_backend_but_for_the_rounding_of_bf16(family: str, tier: str):
    tokens = tuple(int(t) for t in np.random.default_rng(0).integers(0, 300, 90))
    oracle = whole(TorchBackend(model_of(family).eval(), cache_bytes=1 << 22), tokens)
    backend = CpuBackend(packed(family), cache_bytes=1 << 22, library=open_library(tier), threads=2)
    found = whole(backend, tokens)
    assert np.abs(found - oracle).max() < 0.08 * spread(oracle)  # measured 0.01 to 0.04: bf16 keeps 8 bits


@every_family
@pytest.mark.parametrize("recipe", ["bf16", "w8", "w4"])
@pytest.mark.parametrize("cache_kind", ["bf16", "int8"])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), threads=st.integers(1, 3))
def test_no_logit_depends_on_chunks_batch_pages_or_threads(family: str, recipe: Recipe, cache_kind: str, seed: int,
                                                           threads: int):  # fmt: skip
    rng = np.random.default_rng(seed)
    model = packed(family, recipe)
    texts = [tuple(int(t) for t in rng.integers(0, 300, n)) for n in rng.integers(1, 120, 3)]
    wanted = [whole(CpuBackend(model, cache_bytes=1 << 22, cache_kind=cache_kind, threads=1), text) for text in texts]
    backend = CpuBackend(model, cache_bytes=1 << 22, cache_kind=cache_kind, threads=threads)
    order = iter(int(page) for page in rng.permutation(60))
    tables = [[next(order) for _ in range(-(-len(text) // 16))] for text in texts]
    done, found = [0] * 3, [[] for _ in texts]
    while any(d < len(text) for d, text in zip(done, texts, strict=True)):
        chunks, who = [], []
        for i, text in enumerate(texts):
            new = min(int(rng.choice([0, 1, 1, 2, 9, 40])), len(text) - done[i])
            if new:
                part = text[done[i] : done[i] + new]
                chunks.append(Chunk(tokens=part, start=done[i], pages=tuple(tables[i]), rows="all"))
                who.append((i, new))
                done[i] += new
        if chunks:
            rows = iter(backend.forward(Plan(chunks=tuple(chunks))))
            for i, new in who:
                found[i] += [next(rows) for _ in range(new)]
    for logits, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(np.array(other), logits)  # to the bit


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("recipe", ["bf16", "w8", "w4"])
def test_a_step_of_hundreds_of_tokens_is_as_many_small_ones(family: str, recipe: Recipe):
    rng = np.random.default_rng(3)
    model = packed(family, recipe)
    texts = [tuple(int(t) for t in rng.integers(0, 300, n)) for n in (150, 7, 260, 1)]
    backend = CpuBackend(model, cache_bytes=1 << 23, threads=2)
    tables = [tuple(range(first, first + 17)) for first in (0, 17, 34, 51)]
    chunks = [Chunk(tokens=t, start=0, pages=table, rows="all") for t, table in zip(texts, tables, strict=True)]
    found = backend.forward(Plan(chunks=tuple(chunks)))
    alone = CpuBackend(model, cache_bytes=1 << 22, threads=1)
    wanted = []
    for text, table in zip(texts, tables, strict=True):
        for start in range(0, len(text), 50):
            chunk = Chunk(tokens=text[start : start + 50], start=start, pages=tables[0][: len(table)], rows="all")
            wanted.append(alone.forward(Plan(chunks=(chunk,))))
    np.testing.assert_array_equal(found, np.concatenate(wanted))  # to the bit


@pytest.mark.parametrize("cache_kind", ["bf16", "int8"])
def test_a_copied_part_of_a_page_is_as_good_as_computed(cache_kind: str):
    model, tokens = packed("qwen3"), tuple(range(20, 60))
    backend = CpuBackend(model, cache_bytes=1 << 22, cache_kind=cache_kind)
    wanted = whole(backend, tokens)
    whole_again = Chunk(tokens=tokens[21:], start=21, pages=(0, 7, 8), rows="all")
    found = backend.forward(Plan(chunks=(whole_again,), copies=(Copy(source=1, target=7, tokens=5),)))
    np.testing.assert_array_equal(found, wanted[21:])


def test_memory_is_taken_only_as_pages_are_written():
    model, before = packed("qwen3"), resident_bytes()
    backend = CpuBackend(model, cache_bytes=8 << 30)
    whole(backend, (1, 2, 3))
    assert backend.store.nbytes > 7 << 30 and resident_bytes() - before < 30 << 20


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_a_broken_sequence_spoils_no_other():
    """Pages that held what is not finite serve others afterwards."""
    model = packed("qwen3")
    embedding = model.matrix("head").data.view(np.uint16)
    backend = CpuBackend(model, cache_bytes=1 << 20)
    clean = whole(backend, tuple(range(10, 40)))
    kept = embedding.copy()
    embedding[:] = 0x7FC0
    assert np.isnan(whole(backend, tuple(range(10, 40)))).any()
    embedding[:] = kept
    np.testing.assert_array_equal(whole(backend, tuple(range(10, 40))), clean)


def test_a_head_that_the_kernels_cannot_run_is_refused_by_name():
    wide = FAMILIES["qwen3"] | {"head_dim": 24}
    with pytest.raises(ConfigError, match="24 wide"):
        CpuBackend(PackedModel(config=read_config(wide), kinds={}, inputs={}, rotations={}, arrays={}))


def test_the_engine_runs_on_it():
    engine = Engine(CpuBackend(packed("qwen3"), cache_bytes=1 << 22))
    steps = engine.generate(Request(id="r", tokens=(1, 2, 3), sampling=Sampling(temperature=0, max_tokens=9)))
    assert len([step for step in steps if step.token is not None]) == 9


@pytest.mark.parametrize(("family", "recipe", "cache_kind"), [("qwen3", "w8", "bf16"), ("qwen3_moe", "w4", "int8")])
def test_no_reply_depends_on_the_crowd_preemption_prefixes_or_drafts(family: str, recipe: Recipe, cache_kind: str):
    """To the bit, sampled replies and log-probabilities too: alone without drafts, and among others with them."""
    model, asked = packed(family, recipe), requests(random.Random(3), 40)
    alone = Engine(CpuBackend(model, cache_bytes=1 << 22, cache_kind=cache_kind, threads=1), speculation=None)
    wanted = [said(alone.generate(request), request) for request in asked]
    backend = CpuBackend(model, cache_bytes=1 << 22, cache_kind=cache_kind, threads=2)
    backend.pages = 14
    crowd, steps = Engine(backend), []
    for request in asked:
        crowd.submit(request)
    while crowd.busy:
        steps += crowd.step()
    assert [said(steps, request) for request in asked] == wanted
    stats = crowd.stats
    assert stats.preemptions and stats.cached_tokens and stats.drafted and stats.accepted

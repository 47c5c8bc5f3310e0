"""Differences from `transformers`: families x layouts x contexts. `make parity` prints the table and writes its JSON.

Each case is a tiny model with large random weights (logits of some units, so that 1e-4 means something), written by
`transformers`, rewritten to the layout under test, and read back by Octavo as any checkpoint is.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import load_file, save_file

from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Chunk, Plan
from octavo.models import skeleton
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.moe import SparseMLP
from octavo.weights import load_weights, open_checkpoint

BOUND = 1e-4  # fp32 logits, absolute
BF16_BOUND = 0.15  # bf16 logits, root-mean-square difference from fp32 over the root-mean-square of the fp32 logits,
BF16_RATIO = 1.5  # and at most this many times what `transformers` in bf16 differs from itself in fp32
GREEDY_TOKENS = 64
VOCAB = 160
TINY: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.25, "eos_token_id": None,
    "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
MOE = TINY | {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 5e5,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3, tied": ("Qwen3", TINY | {"head_dim": 32, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", TINY | {"head_dim": 32, "tie_word_embeddings": False}),
    "Qwen3, YaRN 4": ("Qwen3", TINY | {"head_dim": 32, "tie_word_embeddings": False, "rope_parameters": YARN}),
    "Qwen3-MoE": ("Qwen3Moe", MOE | {"norm_topk_prob": True}),
    "Qwen3-MoE, every 2nd layer": ("Qwen3Moe", MOE | {"norm_topk_prob": False, "decoder_sparse_step": 2}),
    "Qwen2.5, tied": ("Qwen2", TINY | {"tie_word_embeddings": True}),
    "Qwen2.5": ("Qwen2", TINY | {"tie_word_embeddings": False}),
    "Llama 3.1": ("Llama", TINY | {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "Llama 3.2, tied": ("Llama", TINY | {"rope_parameters": LLAMA3 | {"factor": 32.0}, "tie_word_embeddings": True}),
    "Llama, biases": ("Llama", TINY | {"attention_bias": True, "mlp_bias": True}),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a checkpoint is written. dialect: RoPE as rope_theta (old) or rope_parameters (new)."""

    dialect: Literal["rope_theta", "rope_parameters"] = "rope_theta"
    experts: Literal["each", "fused"] = "each"
    head: Literal["as needed", "stored"] = "as needed"
    files: Literal["one", "sharded"] = "one"

    def __str__(self) -> str:
        return f"{self.dialect}, experts {self.experts}, head {self.head}, {self.files}"


def layouts(family: str) -> list[Layout]:
    """The layouts that differ for a family: all of them, where experts or a tied head are there to be stored."""
    experts = ("each", "fused") if "MoE" in family else ("each",)
    heads = ("as needed", "stored") if "tied" in family else ("as needed",)
    return [
        Layout(dialect=dialect, experts=e, head=h, files=f)
        for dialect in ("rope_theta", "rope_parameters")
        for e in experts
        for h in heads
        for f in ("one", "sharded")
    ]


def oracle(family: str, *, seed: int = 0) -> Any:
    """The model of `transformers`, in fp32, with large random weights; norms and biases are random too."""
    name, values = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**values)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def write(model: Any, folder: Path, *, layout: Layout) -> Path:
    """Save by `transformers`, then rewrite config and names to the layout."""
    plain = folder / "plain"
    model.save_pretrained(plain)
    values = json.loads((plain / "config.json").read_text())
    rope = dict(values.pop("rope_parameters", None) or {"rope_theta": values.pop("rope_theta", 10_000.0)})
    if layout.dialect == "rope_parameters":
        values["rope_parameters"] = rope
    else:
        values["rope_theta"] = rope.pop("rope_theta")
        values["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
        if "num_local_experts" in values:
            values["num_experts"] = values.pop("num_local_experts")  # the official name
    tensors = dict(_experts(load_file(plain / "model.safetensors"), fused=layout.experts == "fused"))
    if layout.head == "stored":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    out = folder / "model"
    out.mkdir()
    (out / "config.json").write_text(json.dumps(values))
    if layout.files == "one":
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return out
    names = sorted(tensors)
    where = {name: f"model-0000{1 + (i * 3) // len(names)}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in names if where[name] == file}, out / file)
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    return out


def _experts(tensors: dict[str, torch.Tensor], *, fused: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Experts each under its own name, or fused; whatever `transformers` wrote."""
    groups: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, found, rest = name.partition(".mlp.experts.")
        if not found:
            yield name, tensor
        elif rest == "gate_up_proj":
            for i, both in enumerate(tensor):
                gate, up = both.chunk(2)
                groups.setdefault(layer, {}).update({(i, "gate_proj"): gate, (i, "up_proj"): up})
        elif rest == "down_proj":
            groups.setdefault(layer, {}).update({(i, "down_proj"): each for i, each in enumerate(tensor)})
        else:
            number, kind, _ = rest.split(".")
            groups.setdefault(layer, {})[int(number), kind] = tensor
    for layer, parts in groups.items():
        count = 1 + max(i for i, _ in parts)
        if fused:
            both = [torch.cat((parts[i, "gate_proj"], parts[i, "up_proj"])) for i in range(count)]
            yield f"{layer}.mlp.experts.gate_up_proj", torch.stack(both)
            yield f"{layer}.mlp.experts.down_proj", torch.stack([parts[i, "down_proj"] for i in range(count)])
        else:
            for (i, kind), tensor in parts.items():
                yield f"{layer}.mlp.experts.{i}.{kind}.weight", tensor.contiguous()


def read(folder: Path, *, dtype: torch.dtype = torch.float32) -> Decoder:
    """The checkpoint as Octavo's own model."""
    checkpoint = open_checkpoint(folder)
    model = skeleton(checkpoint.config)
    load_weights(checkpoint, model, dtype=dtype)
    return model.eval()


def prompts(seed: int) -> list[list[int]]:
    """Five token sequences, from one token to more than YaRN's and llama3's original context."""
    draw = random.Random(seed)
    return [[draw.randrange(VOCAB) for _ in range(length)] for length in (1, 7, 64, 65, draw.randint(100, 150))]


@torch.no_grad()
def reference(model: Any, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits (T, V) per sequence, each run alone."""
    return [model(torch.tensor([tokens])).logits[0] for tokens in sequences]


@torch.no_grad()
def packed(model: Decoder, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits (T, V) per sequence, all end to end in one pass."""
    lengths = [len(tokens) for tokens in sequences]
    flat = torch.tensor([token for tokens in sequences for token in tokens])
    return list(model.logits(model(flat, PackedContext(lengths))).split(lengths))


def paged(model: Decoder, sequences: Sequence[list[int]], *, seed: int) -> list[torch.Tensor]:
    """Logits (T, V) per sequence, cut into random chunks, mixed in random order, on randomly placed pages."""
    draw = random.Random(seed)
    size = draw.choice([1, 4, 16])
    page_bytes = 2 * model.config.layers * size * model.config.heads.kv_heads * model.config.heads.head_width * 4
    needed = sum(-(-len(tokens) // size) for tokens in sequences)
    backend = TorchBackend(model, cache_bytes=page_bytes * (needed + 3), page_tokens=size)
    for store in (*backend.store.k, *backend.store.v):
        store.fill_(torch.nan)  # whatever is read before it is written shows
    free = draw.sample(range(backend.pages), backend.pages)
    tables = [[free.pop() for _ in range(-(-len(tokens) // size))] for tokens in sequences]
    done, rows = [0] * len(sequences), [list[torch.Tensor]() for _ in sequences]
    while any(done[i] < len(tokens) for i, tokens in enumerate(sequences)):
        left = [i for i, tokens in enumerate(sequences) if done[i] < len(tokens)]
        who = draw.sample(left, draw.randint(1, len(left)))
        new = [min(draw.choice([1, 1, 2, 5, 30]), len(sequences[i]) - done[i]) for i in who]
        chunks = [
            Chunk(
                tokens=tuple(sequences[i][done[i] : done[i] + count]), start=done[i],
                pages=tuple(tables[i][: -(-(done[i] + count) // size)]), rows="all",
            ) for i, count in zip(who, new, strict=True)
        ]  # fmt: skip
        logits = torch.from_numpy(backend.forward(Plan(chunks=tuple(chunks)))).split(new)
        for i, count, part in zip(who, new, logits, strict=True):
            rows[i].append(part)
            done[i] += count
    return [torch.cat(parts) for parts in rows]


def distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference; infinite where something is not a number."""
    worst = float((torch.cat(list(found)).float() - torch.cat(list(wanted))).abs().max())
    return worst if worst == worst else float("inf")


def relative(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Root-mean-square difference over the root-mean-square of what was wanted."""
    f, w = torch.cat(list(found)).float(), torch.cat(list(wanted))
    return float((f - w).square().mean().sqrt() / w.square().mean().sqrt())


@torch.no_grad()
def same_greedy(theirs: Any, ours: Decoder, start: list[int]) -> tuple[int, int]:
    """How many of the next greedy tokens agree, and how many of them differ from each other.

    Each model follows its own tokens; ours decodes one by one over pages.
    """
    wanted = theirs.generate(
        torch.tensor([start]), max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(start) :].tolist()
    backend, found, new = TorchBackend(ours, cache_bytes=64 << 20, page_tokens=16), list[int](), list(start)
    for _ in range(GREEDY_TOKENS):
        done = len(start) + len(found) - len(new)
        table = tuple(range(-(-(done + len(new)) // 16)))
        row = backend.forward(Plan(chunks=(Chunk(tokens=tuple(new), start=done, pages=table),)))
        found.append(int(row[0].argmax()))
        new = found[-1:]
    return sum(a == b for a, b in zip(found, wanted, strict=True)), len(set(wanted))


@torch.no_grad()
def same_routes(theirs: Any, ours: Decoder, sequences: Sequence[list[int]]) -> tuple[int, int]:
    """Expert choices (as sets per token and layer) that agree, and how many there are."""
    seen = dict[str, list[torch.Tensor]]()
    for name, module in theirs.named_modules():
        if name.endswith("mlp.gate") and type(module).__name__.endswith("Router"):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out[-1]))
    mine = dict[str, torch.Tensor]()
    for name, module in ours.named_modules():
        if isinstance(module, SparseMLP):
            module.register_forward_hook(
                lambda m, args, _o, name=name: mine.__setitem__(f"{name}.gate", m.route(*args)[1])
            )
    reference(theirs, sequences)
    packed(ours, sequences)
    assert mine.keys() == seen.keys(), (mine.keys(), seen.keys())
    pairs = [(mine[name].sort().values, torch.cat(seen[name]).sort().values) for name in mine]
    return sum(int((a == b).all(-1).sum()) for a, b in pairs), sum(len(a) for a, _ in pairs)


def measure(family: str, layout: Layout, *, seed: int = 0) -> dict[str, Any]:
    """One row of the table."""
    theirs, sequences = oracle(family, seed=seed), prompts(seed)
    folder = Path(tempfile.mkdtemp())
    try:
        path = write(theirs, folder, layout=layout)
        ours, half = read(path), read(path, dtype=torch.bfloat16)
        wanted = reference(theirs, sequences)
        routed = same_routes(theirs, ours, sequences) if "MoE" in family else (0, 0)
        greedy = same_greedy(theirs, ours, sequences[-1][:20])
        row = {
            "family": family, **asdict(layout), "logit_rms": float(torch.cat(wanted).square().mean().sqrt()),
            "packed": distance(packed(ours, sequences), wanted),
            "paged": max(distance(paged(ours, sequences, seed=s), wanted) for s in range(seed, seed + 3)),
            "bf16": relative(packed(half, sequences), wanted),
            "greedy": greedy[0], "greedy_distinct": greedy[1], "routes": list(routed),
            "bf16_theirs": relative(reference(theirs.to(torch.bfloat16), sequences), wanted),
        }  # fmt: skip
    finally:
        shutil.rmtree(folder)
    rounding = min(BF16_BOUND, BF16_RATIO * row["bf16_theirs"])
    row["within"] = (
        row["packed"] < BOUND and row["paged"] < BOUND and row["bf16"] < rounding
        and row["greedy"] == GREEDY_TOKENS and routed[0] == routed[1] and row["logit_rms"] > 0.5
    )  # fmt: skip
    return row


def main() -> int:
    """Print the table, write bench/results/parity.json; 1 where a bound does not hold."""
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = list[dict[str, Any]]()
    print(f"{'family':27}{'layout':52}{'packed':>9}{'paged':>9}{'bf16':>9}{'(theirs)':>9}{'greedy':>8}{'routes':>11}")
    for family in FAMILIES:
        for layout in layouts(family):
            row = measure(family, layout)
            rows.append(row)
            routes = "/".join(map(str, row["routes"])) if row["routes"][1] else "-"
            mark = "" if row["within"] else "  OUT OF BOUNDS"
            bf16 = f"{row['bf16']:9.4f}{row['bf16_theirs']:9.4f}"
            print(f"{family:27}{layout!s:52}{row['packed']:9.1e}{row['paged']:9.1e}{bf16}{row['greedy']:5}/{GREEDY_TOKENS}"
                  f"{routes:>11}{mark}", flush=True)  # fmt: skip
    good = sum(row["within"] for row in rows)
    print(f"{good} of {len(rows)} within bounds: fp32 logits {BOUND:g}, bf16 {BF16_BOUND:g} of their size and "
          f"{BF16_RATIO:g} times what transformers' own bf16 differs, greedy tokens and routes identical")  # fmt: skip
    result = {"command": "make parity", "bound": BOUND, "bf16_bound": BF16_BOUND, "rows": rows,
              "torch": torch.__version__, "transformers": transformers.__version__}  # fmt: skip
    Path(__file__).with_name("results").joinpath("parity.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())

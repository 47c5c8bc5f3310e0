"""Rows before the head, and prompts that are scored from a place on: alone or in a crowd, the same."""

import random

import numpy as np
import pytest

from bench.laws import small_backend, tiny_model
from bench.subjects import requests
from octavo.core.sampling import Sampling
from octavo.engine.cpu_backend import CpuBackend
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Chunk, Plan, Request, Step
from tests.engine.hash_backend import HashBackend
from tests.engine.test_cpu_backend import model_of, packed

NOTHING, SCORED = Sampling(max_tokens=0), Sampling(max_tokens=0, logprobs=0)


def pooling(id: str, tokens: tuple[int, ...]) -> Request:
    return Request(id=id, tokens=tokens, sampling=NOTHING, pools=True)


def run(engine: Engine, wanted: list[Request]) -> dict[str, Step]:
    for request in wanted:
        engine.submit(request)
    ends: dict[str, Step] = {}
    while engine.busy:
        ends |= {step.id: step for step in engine.step() if step.finish is not None}
    return ends


def test_a_pooled_row_is_the_mean_of_all_rows_and_leaves_no_page():
    backend, tokens = small_backend(tiny_model(vocab_size=64), pages=40, page_tokens=8), tuple(range(5, 60))
    engine = Engine(backend, step_tokens=13)
    end = run(engine, [pooling("a", tokens)])["a"]
    rows = backend.hidden(Plan(chunks=(Chunk(tokens=tokens, start=0, pages=tuple(range(7)), rows="all"),)))
    assert end.token is None and end.pooled == pytest.approx(rows.mean(0), abs=1e-6)
    assert engine.pool.unused == engine.pool.size and not engine.pool.nodes


def test_pooled_rows_do_not_depend_on_the_crowd_its_chunks_and_preemptions():
    rng = random.Random(0)
    texts = [pooling(f"p{i}", tuple(rng.choices(range(64), k=rng.randint(1, 90)))) for i in range(12)]
    alone = {text.id: run(Engine(HashBackend(pages=512)), [text])[text.id].pooled for text in texts}
    preemptions = 0
    for seed in range(4):
        engine = Engine(HashBackend(pages=40), step_tokens=rng.choice([5, 31, 512]))
        others = [r for r in requests(random.Random(seed), 12) if len(r.tokens) < engine.longest]
        wanted = [one for pair in zip(texts, others, strict=False) for one in pair] + texts[len(others) :]
        together = run(engine, wanted)
        assert {text.id: together[text.id].pooled for text in texts} == alone
        preemptions += engine.stats.preemptions
    assert preemptions


def test_a_running_reply_is_the_same_beside_texts_that_are_embedded():
    reply = requests(random.Random(5), 1)[0]
    wanted = run(Engine(HashBackend()), [reply])
    crowd = [pooling(f"p{i}", tuple(range(i, 60))) for i in range(3)]
    assert run(Engine(HashBackend(pages=200)), [*crowd, reply])[reply.id].finish == wanted[reply.id].finish


@pytest.mark.parametrize("start", [1, 2, 9, 17, 33, 50])
def test_scoring_from_a_place_on_finds_what_is_known_and_says_the_same(start: int):
    tokens = tuple(range(5, 57))
    plain = Engine(HashBackend()).generate(Request(id="r", tokens=tokens, sampling=SCORED))[0].prompt_logprobs
    engine = Engine(HashBackend(), step_tokens=7)
    for seen in (0, start - 1):
        scored = Request(id="r", tokens=tokens, sampling=SCORED, scored_from=start)
        end = engine.generate(scored)[0]
        assert end.prompt_logprobs[start:] == plain[start:] and len(end.prompt_logprobs) == len(tokens)
        assert np.isnan(end.prompt_logprobs[:start]).all() and end.cached_tokens == seen


def test_a_scored_prompt_that_is_preempted_is_scored_once():
    wanted = [Request(id=str(i), tokens=tuple(range(i, i + 100)), sampling=SCORED) for i in range(4)]
    backend = HashBackend(pages=40, vocab_size=128)
    engine = Engine(backend, step_tokens=128)
    ends = run(engine, wanted)
    for request in wanted:
        alone = Engine(HashBackend(pages=64, vocab_size=128)).generate(request)[0].prompt_logprobs
        assert ends[request.id].prompt_logprobs[1:] == alone[1:]
    assert engine.stats.preemptions


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_the_kernels_give_the_rows_that_torch_gives(family: str):
    tokens = tuple(range(3, 40))
    one, other = CpuBackend(packed(family), cache_bytes=1 << 24), TorchBackend(model_of(family), cache_bytes=1 << 24)
    plan = Plan(chunks=(Chunk(tokens=tokens, start=0, pages=(0, 1, 2), rows="all"),))
    rows, wanted = one.hidden(plan), other.hidden(plan)
    assert rows.shape == wanted.shape == (len(tokens), one.width)
    assert np.linalg.norm(rows - wanted) < 0.02 * np.linalg.norm(wanted)
    last = one.hidden(Plan(chunks=(Chunk(tokens=tokens, start=0, pages=(0, 1, 2), rows="last"),)))
    np.testing.assert_array_equal(last[0], rows[-1])


def test_a_row_does_not_depend_on_its_batch_to_the_bit():
    backend = CpuBackend(packed("qwen3"), cache_bytes=1 << 24)
    texts = [pooling(str(i), tuple(range(i, 40 + 3 * i))) for i in range(6)]
    alone = {text.id: run(Engine(backend), [text])[text.id].pooled for text in texts}
    together = run(Engine(backend, step_tokens=50), texts)
    assert {id: end.pooled for id, end in together.items()} == alone

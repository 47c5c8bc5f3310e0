"""Prompts that are computed before anybody asks for them: found afterwards, in nobody's way, gone without a trace."""

import random

import pytest

from bench.laws import LOUD, crowded, requests, said
from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.scheduler import MOST_WARMING, WARM_TOKENS
from octavo.engine.types import Plan, Request
from tests.engine.hash_backend import HashBackend

PROMPT = tuple(random.Random(0).choices(range(20, 64), k=75))


def ask(tokens: tuple[int, ...], *, id: str = "r") -> Request:
    return Request(id=id, tokens=tokens, sampling=Sampling(temperature=0, max_tokens=6))


def idle(engine: Engine) -> None:
    while engine.warming:
        assert engine.step() == []


@pytest.mark.parametrize("page_tokens", [1, 4, 16, 64])
def test_what_was_prepared_is_found_to_the_last_token(page_tokens: int):
    backend = HashBackend(page_tokens=page_tokens, pages=256 // page_tokens)
    engine = Engine(backend)
    engine.warm(PROMPT)
    idle(engine)
    assert engine.computed_tokens == len(PROMPT) and engine.pool.unused == engine.pool.size
    steps = engine.generate(ask((*PROMPT, 7, 8)))
    assert steps[-1].cached_tokens == len(PROMPT)
    assert engine.computed_tokens == len(PROMPT) + 2 + 5
    assert tokens_of(steps) == tokens_of(Engine(HashBackend()).generate(ask((*PROMPT, 7, 8))))


def test_only_what_is_not_there_yet_is_computed():
    engine = Engine(HashBackend())
    engine.generate(ask(PROMPT))
    before = engine.computed_tokens
    engine.warm((*PROMPT[:70], 5, 6, 7))
    idle(engine)
    assert engine.computed_tokens == before + 3


def test_it_runs_alone_and_in_small_chunks():
    backend = HashBackend()
    engine = Engine(backend)
    engine.warm(PROMPT)
    engine.step()
    engine.submit(ask((1, 2, 3)))
    assert engine.pool.unused == engine.pool.size, "it holds pages while a request wants to run"
    while engine.busy:
        engine.step()
    idle(engine)
    starts = [[(chunk.tokens[:1], len(chunk.tokens)) for chunk in plan.chunks] for plan in backend.forwards]
    assert starts[0] == [(PROMPT[:1], WARM_TOKENS)] and starts[1] == [((1,), 3)]
    assert all(len(chunks) == 1 and chunks[0][1] == 1 for chunks in starts[2:7])
    assert [size for [(_, size)] in starts[7:]] == [WARM_TOKENS, len(PROMPT) - 2 * WARM_TOKENS]


def test_a_request_gets_all_pages_whatever_was_prepared():
    engine = Engine(HashBackend(pages=20))
    engine.warm(PROMPT)
    idle(engine)
    steps = engine.generate(Request(id="r", tokens=(1, *PROMPT[1:70]), sampling=Sampling(temperature=0)))
    assert len(steps) == 10 and engine.stats.preemptions == 0


def test_a_part_that_is_found_is_given_up_where_its_page_is_the_one_missing():
    engine = Engine(HashBackend(pages=4))
    engine.warm(PROMPT[:15])
    idle(engine)
    other = (*PROMPT[:14], 1)
    steps = engine.generate(Request(id="r", tokens=other, sampling=Sampling(temperature=0)))
    assert steps[0].cached_tokens == 12 and tokens_of(steps) == tokens_of(
        Engine(HashBackend(pages=4)).generate(Request(id="r", tokens=other, sampling=Sampling(temperature=0)))
    )


def test_what_cannot_come_is_refused_and_of_too_many_the_first_are_forgotten():
    engine = Engine(HashBackend())
    for tokens, words in (((), "no tokens"), ((64,), "outside"), ((1,) * 300, "300 tokens")):
        with pytest.raises(RequestError, match=words):
            engine.warm(tokens)
    assert not engine.warming
    for i in range(MOST_WARMING + 2):
        engine.warm((i % 64, *PROMPT[:2]))
    idle(engine)
    assert engine.forwards == MOST_WARMING


class Breaking(HashBackend):
    """Breaks off one pass in three, before or after it wrote."""

    def __init__(self, rng: random.Random, **shape: int) -> None:
        super().__init__(loud=LOUD, **shape)
        self.rng = rng

    def forward(self, plan: Plan):
        how = self.rng.random()
        if how < 0.15:
            raise KeyboardInterrupt
        logits = super().forward(plan)
        if how < 0.3:
            raise KeyboardInterrupt
        return logits


class Stormy(Engine):
    """Prepares prompts at random moments, and goes on after steps that broke off."""

    def __init__(self, rng: random.Random, wanted: list[Request]) -> None:
        page_tokens = rng.choice([2, 4, 8])
        backend = Breaking(rng, page_tokens=page_tokens, pages=rng.randint(90, 120) // page_tokens)
        super().__init__(backend, step_tokens=rng.choice([3, 7, 32]))
        self.rng, self.wanted, self.broken = rng, wanted, 0

    def step(self):
        if self.busy and self.rng.random() < 0.3:
            tokens = self.rng.choice(self.wanted).tokens
            self.warm(tokens[: self.rng.randint(1, len(tokens))])
        try:
            return super().step()
        except KeyboardInterrupt:
            self.broken += 1
            return []


def test_in_a_crowd_and_with_steps_that_break_off_each_reply_is_what_it_is_alone():
    copies = broken = prepared = 0
    for seed in range(30):
        rng = random.Random(seed)
        wanted = requests(rng, 8)
        engine = Stormy(rng, wanted)
        together = crowded(engine, wanted, rng)
        for request in wanted:
            alone = Engine(HashBackend(pages=1024, loud=LOUD)).generate(request)
            assert said(alone, request) == said(together, request), f"seed {seed}, request {request.id}"
        while engine.warming:
            engine.step()
            prepared += 1
        assert engine.pool.unused == engine.pool.size, f"seed {seed}: pages leaked"
        copies += sum(len(plan.copies) for plan in engine.backend.forwards)
        broken += engine.broken
    assert copies > 30 and broken > 100 and prepared > 30

"""Laws of speculation: it changes no token, leaks no page, breaks no rule; it saves passes on text that repeats, and
costs next to nothing elsewhere. `make laws` runs them with the others.
"""

import json
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import jsonschema

from bench.subjects import (
    LOUD,
    MARKERS,
    ORDINARY,
    POINT,
    WORD_MARKERS,
    crowded,
    replace_tokens,
    requests,
    said,
    small_backend,
    tiny_model,
    toy_vocabulary,
)
from octavo.core.channel import Channel
from octavo.core.sampling import Sampling
from octavo.engine.drafts import Ask, Drafter, ModelDrafter, NgramDrafter
from octavo.engine.engine import Engine
from octavo.engine.speculation import ALLOWANCE, PROBE, Speculation
from octavo.engine.types import Plan, Request
from tests.engine.hash_backend import HashBackend

Figures = dict[str, int]
FREE = 1e-9  # a cost of drafted tokens that lets every reply draft in every pass, however often its drafts fail


class Guesser:
    """Drafts what the target's greedy choice would be, each token with probability `right`, else any token at all."""

    def __init__(self, target: HashBackend, *, right: float, rng: random.Random) -> None:
        self.target, self.right, self.rng = target, right, rng

    def propose(self, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        drafts: list[tuple[int, ...]] = []
        for ask in asks:
            tokens = list(ask.tokens)
            for _ in range(ask.most):
                true = self.rng.random() < self.right
                tokens.append(int(self.target.logits(tokens).argmax()) if true else self.rng.choice(range(64)))
            drafts.append(tuple(tokens[len(ask.tokens) :]))
        return drafts

    def forget(self, reply: Hashable) -> None:
        return None


DRAFTERS: dict[str, Callable[[HashBackend, random.Random], Drafter]] = {
    "n-gram": lambda target, rng: NgramDrafter(),
    "model": lambda target, rng: ModelDrafter(smaller(target, rng), target=target),
    "truth": lambda target, rng: Guesser(target, right=1, rng=rng),
    "coin": lambda target, rng: Guesser(target, right=0.6, rng=rng),
    "garbage": lambda target, rng: Guesser(target, right=0, rng=rng),
}


def smaller(target: HashBackend, rng: random.Random) -> HashBackend:
    """A draft model that says mostly what the target says, with pages of another size, sometimes too few of them."""
    page_tokens = rng.choice([1, 3, 8])
    return HashBackend(vocab_size=target.vocab_size, page_tokens=page_tokens, pages=rng.randint(60, 400) // page_tokens,
                       echo=target.echo, strength=target.strength)  # fmt: skip


def echoing(rng: random.Random, *, page_tokens: int = 4, pages: int = 1024) -> HashBackend:
    """A model that says one short text again and again, more or less faithfully; some texts think, or call tools."""
    text = rng.choices(ORDINARY, k=rng.randint(3, 12)) + rng.choice([[], [], [1, 30, 31, 2, 13], [3, 40, 41, 4]])
    return HashBackend(page_tokens=page_tokens, pages=pages, loud=LOUD, echo=text, strength=rng.choice([6, 9, 14]))


def drafting(target: HashBackend, name: str, rng: random.Random, *, token_cost: float, step_tokens: int) -> Engine:
    """An engine with one of the DRAFTERS."""
    speculation = Speculation(drafter=lambda: DRAFTERS[name](target, rng), token_cost=token_cost)
    return Engine(target, step_tokens=step_tokens, speculation=speculation)


def talkative(rng: random.Random, count: int) -> list[Request]:
    """Random requests for longer replies, most of them with thinking budgets."""
    made = requests(rng, count, budgets=rng.random() < 0.7)
    return [replace(r, sampling=replace_tokens(r.sampling, rng.randint(20, 70))) for r in made]


def changes_nothing(count: int) -> Figures:
    """Each reply is the same to the bit with any drafter, in crowds with few pages, as alone without speculation."""
    figures = {"requests": 0, "replies": 0, "tokens": 0, "preemptions": 0, "prefix tokens reused": 0}
    figures |= {f"accepted of {name}": 0 for name in DRAFTERS} | {"refused": 0}
    seed = -1
    while figures["requests"] < count:
        seed += 1
        rng, name = random.Random(seed), list(DRAFTERS)[seed % len(DRAFTERS)]
        page_tokens = rng.choice([1, 2, 4, 8])
        target = echoing(rng, page_tokens=page_tokens, pages=rng.randint(125, 260) // page_tokens)
        wanted = talkative(rng, 6)
        engine = drafting(
            target, name, rng, token_cost=rng.choice([FREE, 0.05]), step_tokens=rng.choice([2, 5, 16, 512])
        )
        together = crowded(engine, wanted, rng)
        for request in wanted:
            plain = HashBackend(pages=1024, loud=LOUD, echo=target.echo, strength=target.strength)
            alone = Engine(plain, speculation=None).generate(request)
            assert said(alone, request) == said(together, request), f"seed {seed}, {name}, request {request.id}"
            figures["replies"] += request.sampling.n
            figures["tokens"] += sum(step.token is not None for step in alone)
        s = engine.stats
        figures["requests"] += len(wanted)
        figures["preemptions"] += s.preemptions
        figures["prefix tokens reused"] += s.cached_tokens
        figures["refused"] += s.drafted - s.accepted
        figures[f"accepted of {name}"] += s.accepted
        check_nothing_is_kept(engine)
    assert all(figures.values()), figures
    return figures


def check_nothing_is_kept(engine: Engine) -> None:
    """All pages are unused, the draft model's too, and no reply is remembered."""
    assert engine.pool.unused == engine.backend.pages, "pages leaked"
    assert engine.speculator is not None
    assert not engine.speculator.paces
    drafter = engine.speculator.drafter
    if isinstance(drafter, ModelDrafter):
        assert not drafter.held
        assert drafter.pool.unused == drafter.backend.pages, "the draft model's pages leaked"
    elif isinstance(drafter, NgramDrafter):
        assert not drafter.lookups


def storms_leak_nothing(count: int) -> Figures:
    """Random submits, cancels, early stops and steps with every drafter: in the end nothing is kept anywhere."""
    figures = {"events": 0, "cancelled": 0, "stopped early": 0, "preemptions": 0, "accepted": 0, "storms": 0}
    while figures["events"] < count:
        rng, name = random.Random(figures["storms"]), list(DRAFTERS)[figures["storms"] % len(DRAFTERS)]
        page_tokens = rng.choice([1, 4, 16])
        target = echoing(rng, page_tokens=page_tokens, pages=rng.randint(128, 260) // page_tokens)
        engine = drafting(target, name, rng, token_cost=FREE, step_tokens=rng.choice([4, 64]))
        queue = talkative(rng, 40)
        for _ in range(250):
            kind = rng.choice(["submit", "cancel", "end", "step", "step", "step", "step", "step"])
            if kind == "submit" and queue and len(engine.live) < 4:
                engine.submit(queue.pop())
            elif kind == "cancel" and engine.live:
                engine.cancel(rng.choice(list(engine.live)))
                figures["cancelled"] += 1
            elif kind == "end" and engine.live:
                engine.end_thinking(rng.choice(list(engine.live)))
                figures["stopped early"] += 1
            else:
                engine.step()
            figures["events"] += 1
        while engine.busy:
            engine.step()
        check_nothing_is_kept(engine)
        figures["preemptions"] += engine.stats.preemptions
        figures["accepted"] += engine.stats.accepted
        figures["storms"] += 1
    return figures


def real_greedy_stays(count: int) -> Figures:
    """A real model in fp32, n-gram drafts or another real model's: greedy tokens are those of plain decoding."""
    model, rng = tiny_model(vocab_size=64), random.Random(0)
    figures = {"requests": 0, "tokens": 0, "accepted": 0, "accepted of model": 0}
    while figures["requests"] < count:
        wanted = [
            replace(r, sampling=Sampling(temperature=0, max_tokens=rng.randint(20, 60))) for r in requests(rng, 4)
        ]
        target = small_backend(model, pages=40, page_tokens=8)
        draft = small_backend(model, pages=rng.choice([10, 60]), page_tokens=4)
        by_model = figures["requests"] % 8 == 0
        drafter = (lambda t=target, d=draft: ModelDrafter(d, target=t)) if by_model else NgramDrafter
        engine = Engine(target, speculation=Speculation(drafter=drafter))
        together = crowded(engine, wanted, rng)
        for request in wanted:
            alone = Engine(small_backend(model, pages=40, page_tokens=8), speculation=None).generate(request)
            assert said(alone, request) == said(together, request), f"request {request.id}"
            figures["tokens"] += sum(step.token is not None for step in alone)
        figures["requests"] += len(wanted)
        figures["accepted of model" if by_model else "accepted"] += engine.stats.accepted
        check_nothing_is_kept(engine)
    assert all(figures.values()), figures
    return figures


def rules_hold(count: int) -> Figures:
    """With every drafter: thinking in its budget, the early-stop text whole and in its place, JSON that validates."""
    figures = {"thinking replies": 0, "JSON replies": 0, "accepted": 0}
    while figures["JSON replies"] < count:
        rng = random.Random(figures["JSON replies"])
        for name in DRAFTERS:
            figures["accepted"] += think_within(rng.randint(0, 40), name, rng) + write_json(name, rng)
            figures["thinking replies"] += 1
            figures["JSON replies"] += 1
    assert all(figures.values()), figures
    return figures


def think_within(budget: int, name: str, rng: random.Random) -> int:
    """A model that would think on and on stops at the very token; returns how many drafted ones came true."""
    backend = HashBackend(pages=400, echo=rng.choices(ORDINARY, k=5), strength=9)
    engine = drafting(backend, name, rng, token_cost=FREE, step_tokens=512)
    sampling = Sampling(temperature=rng.choice([0, 0.8]), seed=1, max_tokens=80)
    prompt = (5, *rng.choices(ORDINARY, k=8), 1)
    steps = engine.generate(Request(id="r", tokens=prompt, sampling=sampling, markers=MARKERS, budget_tokens=budget))
    assert [step.channel is Channel.THINKING for step in steps] == [i < budget for i in range(80)]
    stop = len(MARKERS.early_stop)
    assert [step.forced for step in steps] == [budget <= i < budget + stop for i in range(80)]
    assert [step.token for step in steps[budget : budget + stop]] == list(MARKERS.early_stop)
    assert steps[-1].thinking_stop == "budget"
    return engine.stats.accepted


def write_json(name: str, rng: random.Random) -> int:
    """An answer held to a schema is the same with drafts, to its last log-probability; returns as above."""
    words, schema = toy_vocabulary(), {"type": "array", "items": POINT, "minItems": 3, "maxItems": 6}
    echo = [20 + byte for byte in b'{"x": 120, "y": 34}, ']
    backend = HashBackend(vocab_size=len(words.tokens), pages=400, echo=echo, strength=6)
    sampling = Sampling(schema=schema, temperature=rng.choice([0, 1]), seed=rng.randrange(1000), logprobs=1)
    prompt = (5, *rng.choices(range(20, 200), k=4))
    request = Request(id="r", tokens=prompt, markers=WORD_MARKERS, vocabulary=words, sampling=sampling, budget_tokens=9)
    engine, plain = drafting(backend, name, rng, token_cost=FREE, step_tokens=512), Engine(backend, speculation=None)
    steps = engine.generate(request)
    assert said(steps, request) == said(plain.generate(request), request), name
    answer = [step.token for step in steps if step.token is not None and step.channel is Channel.ANSWER]
    text = b"".join(words.tokens[token] for token in answer if token not in words.special)
    jsonschema.validate(json.loads(text), schema)
    return engine.stats.accepted


def drafted_tokens(plan: Plan) -> int:
    """How many of a plan's tokens are drafted."""
    return sum(len(chunk.tokens) - 1 for chunk in plan.chunks if chunk.rows == "all")


def passes_are_saved(count: int) -> Figures:
    """Text that repeats takes 1.6 times fewer passes at least; on other text the drafts stay in their allowance.

    The allowance is counted in what passes cost replies: 1 for each of its replies, and token_cost more for each of
    them and each drafted token.
    """
    figures = {"replies": 0, "tokens that repeat": 0, "passes for them": 0, "other tokens": 0, "passes with drafts": 0,
               "garbage drafted": 0}  # fmt: skip
    cost = Speculation().token_cost
    while figures["replies"] < count:
        rng = random.Random(figures["replies"])
        prompt, text = rng.choices(ORDINARY, k=30), rng.choices(ORDINARY, k=rng.randint(10, 60))
        sampling = Sampling(temperature=rng.choice([0, 1]), seed=1, max_tokens=300, n=rng.choice([1, 1, 3]))
        request = Request(id="r", tokens=(*prompt, *text), sampling=sampling)
        repeats = Engine(HashBackend(pages=400, echo=text, strength=9))
        figures["tokens that repeat"] += len(repeats.generate(request))
        figures["passes for them"] += repeats.forwards
        for name in ("n-gram", "garbage"):
            backend = HashBackend(pages=400)
            engine = drafting(backend, name, rng, token_cost=cost, step_tokens=512)
            tokens = len(engine.generate(request))
            spent = sum(len(p.chunks) * (1 + cost * drafted_tokens(p)) for p in backend.forwards)
            allowed = tokens * (1 + ALLOWANCE) + sampling.n * PROBE * cost
            assert spent <= allowed + 1e-6, f"{name}: {spent} passes for {tokens} tokens, {allowed} are allowed"
            if name == "garbage":
                figures["garbage drafted"] += engine.stats.drafted
            else:
                figures["other tokens"] += tokens
                figures["passes with drafts"] += sum(drafted_tokens(plan) > 0 for plan in backend.forwards)
        figures["replies"] += 3 * sampling.n
    assert figures["tokens that repeat"] >= 1.6 * figures["passes for them"], figures
    assert figures["passes with drafts"] <= 0.03 * figures["other tokens"], figures
    return figures

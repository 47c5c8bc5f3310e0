"""The engine's laws, counted: `make laws` runs them all, prints what was checked and writes bench/results/laws.json.

The hash backend makes every difference visible: its logits depend on each token before, as read back from the pages.
The laws on real arithmetic use a tiny Qwen3 with random weights.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import torch

from bench import speculation_laws as speculation
from bench import tool_laws as tools
from bench.subjects import (
    LOUD,
    MARKERS,
    POINT,
    WORD_MARKERS,
    closed,
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
from octavo.engine.engine import Engine
from octavo.engine.types import Request, Step
from tests.engine.hash_backend import HashBackend

Figures = dict[str, int]


def no_reply_depends_on_others(count: int) -> Figures:
    """Alone with plenty of pages, or crowded with few and in chunks of any size: each reply is the same, to the bit."""
    figures = {"requests": 0, "replies": 0, "tokens": 0, "preemptions": 0, "prefix tokens reused": 0, "chunkings": 0}
    seed = 0
    while figures["requests"] < count:
        rng = random.Random(seed)
        seed += 1
        wanted = requests(rng, 10)
        page_tokens = rng.choice([1, 2, 4, 8])
        backend = HashBackend(page_tokens=page_tokens, pages=rng.randint(90, 200) // page_tokens, loud=LOUD)
        engine = Engine(backend, step_tokens=rng.choice([1, 3, 7, 32, 512]))
        together = crowded(engine, wanted, rng)
        for request in wanted:
            alone = Engine(HashBackend(pages=1024, loud=LOUD)).generate(request)
            assert said(alone, request) == said(together, request), f"seed {seed - 1}, request {request.id}"
            figures["replies"] += request.sampling.n
            figures["tokens"] += sum(step.token is not None for step in alone)
        figures["requests"] += len(wanted)
        figures["preemptions"] += engine.stats.preemptions
        figures["prefix tokens reused"] += engine.stats.cached_tokens
        figures["chunkings"] += 1
        assert engine.pool.unused == backend.pages, f"seed {seed - 1}: pages leaked"
    assert figures["preemptions"] and figures["prefix tokens reused"], "the crowd was no crowd"
    return figures


def real_greedy_depends_on_nothing(count: int) -> Figures:
    """The same with a real model in fp32: greedy tokens alone and in a crowd with preemptions are identical."""
    model, rng = tiny_model(vocab_size=64), random.Random(0)
    figures = {"requests": 0, "tokens": 0, "preemptions": 0, "prefix tokens reused": 0}
    while figures["requests"] < count:
        wanted = [
            replace(r, sampling=Sampling(temperature=0, max_tokens=rng.randint(8, 40))) for r in requests(rng, 20)
        ]
        engine = Engine(small_backend(model, pages=24, page_tokens=8), step_tokens=rng.choice([5, 17, 512]))
        together = crowded(engine, wanted, rng)
        for request in wanted:
            alone = Engine(small_backend(model, pages=64, page_tokens=8)).generate(request)
            assert said(alone, request) == said(together, request), f"request {request.id}"
            figures["tokens"] += sum(step.token is not None for step in alone)
        figures["requests"] += len(wanted)
        figures["preemptions"] += engine.stats.preemptions
        figures["prefix tokens reused"] += engine.stats.cached_tokens
    assert figures["preemptions"] and figures["prefix tokens reused"], "the crowd was no crowd"
    return figures


def thinking_stays_in_budget(count: int) -> Figures:
    """Thinking tokens never exceed the budget; the early-stop text is forced whole and computed in one pass."""
    figures = {"requests": 0, "replies": 0, "stopped by the budget": 0, "closed by the model": 0, "by the user": 0}
    rng, text = random.Random(1), list(MARKERS.early_stop)
    backend = HashBackend(pages=4096, loud=LOUD | {2: 0.5})
    engine = Engine(backend)
    while figures["requests"] < count:
        wanted = [replace(r, sampling=replace_tokens(r.sampling, 120)) for r in requests(rng, 20, budgets=True)]
        budget_of = {r.id: r.budget_tokens or 0 for r in wanted}
        steps, users = list[Step](), set[str]()
        for request in wanted:
            engine.submit(request)
        while engine.busy:
            new = engine.step()
            steps += new
            for step in new:
                if step.channel is Channel.THINKING and step.finish is None and rng.random() < 0.02:
                    engine.end_thinking(step.id)
                    users.add(step.id)
        for request in wanted:
            for reply in said(steps, request):
                _check_budget(reply, budget_of[request.id], text=text, asked=request.id in users)
                figures["replies"] += 1
                stop = reply[-1].thinking_stop
                names = {"budget": "stopped by the budget", "natural": "closed by the model", "user": "by the user"}
                if stop is not None:
                    figures[names[stop]] += 1
        figures["requests"] += len(wanted)
    longest = max(len(chunk.tokens) for plan in backend.forwards for chunk in plan.chunks if chunk.start > 60)
    assert longest >= len(text), "the early-stop text was not computed in one pass"
    assert all(figures.values()), figures
    return figures


def _check_budget(reply: list[Step], budget: int, *, text: list[int], asked: bool) -> None:
    channels = [step.channel for step in reply if step.token is not None]
    forced = [step.token for step in reply if step.forced]
    thinking = channels.count(Channel.THINKING)
    assert thinking <= budget, (thinking, budget)
    closes = sum(step.token == MARKERS.think_close and not step.forced for step in reply)  # by the model: tag and gap
    assert channels.count(Channel.CLOSING) <= len(text) + 2 * closes
    assert forced == text[: len(forced)] and (len(forced) in (0, len(text)) or reply[-1].finish == "length"), forced
    if forced:
        assert reply[-1].thinking_stop in (("user", "budget") if asked else ("budget",))
        assert asked or thinking == budget
    assert all(step.logprob is None for step in reply if step.forced)


def schemas_hold(count: int) -> Figures:
    """Generations from a model with random weights, each held to a schema, a regex or choices: all of them match."""
    words = toy_vocabulary()
    model, rng = tiny_model(vocab_size=len(words.tokens)), random.Random(2)
    engine = Engine(small_backend(model, pages=512, page_tokens=32))
    figures = {"generations": 0, "tokens": 0, "schemas": len(SCHEMAS), "after thinking": 0}
    kinds = list(SCHEMAS)
    while figures["generations"] < count:
        batch = [(kinds[(figures["generations"] + i) % len(kinds)], i) for i in range(8)]
        steps = list[Step]()
        for schema, i in batch:
            sampling = Sampling(
                schema=json.loads(schema), temperature=rng.choice([0, 0.7, 1.0, 2.0]), seed=rng.getrandbits(60)
            )
            engine.submit(Request(id=str(i), tokens=(5, *rng.choices(range(20, 200), k=5), *rng.choice([(), (1,)])),
                                  sampling=sampling, markers=WORD_MARKERS, budget_tokens=rng.randint(0, 20),
                                  vocabulary=words))  # fmt: skip
        while engine.busy:
            steps += engine.step()
        for schema, i in batch:
            own = [s for s in steps if s.id == str(i)]
            answer = b"".join(words.tokens[s.token] for s in own if s.token is not None and s.channel is Channel.ANSWER
                              and s.token not in words.special)  # fmt: skip
            assert answer, [(s.token, s.channel.name, s.forced, s.finish) for s in own]
            assert own[-1].finish == "stop", (schema, own[-1], answer[-200:])
            jsonschema.validate(json.loads(answer), json.loads(schema))
            figures["tokens"] += len(own)
            figures["after thinking"] += any(s.channel is Channel.THINKING for s in own)
        figures["generations"] += len(batch)
    return figures


def storms_leak_nothing(count: int) -> Figures:
    """Random submits, cancels, early stops and steps; in the end every page is unused, and each reply ended once."""
    figures = {"events": 0, "submitted": 0, "cancelled": 0, "preemptions": 0, "storms": 0}
    while figures["events"] < count:
        rng = random.Random(figures["storms"])
        backend = HashBackend(page_tokens=rng.choice([1, 4, 16]), pages=rng.randint(40, 80), loud=LOUD)
        engine, queue, ended = (
            Engine(backend, step_tokens=rng.choice([4, 64])),
            requests(rng, 60),
            list[tuple[str, int]](),
        )
        queue = [r for r in queue if len(r.tokens) + 1 < engine.longest]
        sent = {r.id: r.sampling.n for r in queue}
        for _ in range(250):
            kind, steps = rng.choice(["submit", "cancel", "end", "step", "step", "step"]), list[Step]()
            if kind == "submit" and queue:
                engine.submit(queue.pop())
                figures["submitted"] += 1
            elif kind == "cancel" and engine.live:
                steps = engine.cancel(rng.choice(list(engine.live)))
                figures["cancelled"] += 1
            elif kind == "end" and engine.live:
                engine.end_thinking(rng.choice(list(engine.live)))
            else:
                steps = engine.step()
            ended += [(step.id, step.index) for step in steps if step.finish is not None]
            figures["events"] += 1
        while engine.busy:
            ended += [(step.id, step.index) for step in engine.step() if step.finish is not None]
        unsent = {r.id for r in queue}
        assert sorted(ended) == sorted((id, i) for id, n in sent.items() if id not in unsent for i in range(n))
        assert engine.pool.unused == backend.pages, f"{backend.pages - engine.pool.unused} pages leaked"
        figures["preemptions"] += engine.stats.preemptions
        figures["storms"] += 1
    return figures


def next_turns_find_their_history(count: int) -> Figures:
    """Between turns the model prepares the next one: whatever the mode, that finds all of its history."""
    from bench.next_turn import law

    return law(count)


SCHEMAS = tuple(json.dumps(schema) for schema in (
    closed({"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    {"type": "string", "pattern": "^[a-z]{3,8}@[a-z]{2,5}\\.(com|org)$"},
    {"enum": ["ja", "nein", "猫", None, 7, True]},
    closed({"date": {"type": "string", "format": "date"}, "ok": {"type": "boolean"}}),
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": -5, "maximum": 5}, {"type": "null"}]},
    {"$defs": {"p": POINT}, "type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 2, "maxItems": 3},
    closed({"a": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
            "b": closed({"c": {"const": "deep"}})}),
    {"type": "string", "minLength": 2, "maxLength": 20},
    {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
))  # fmt: skip

LAWS: dict[str, tuple[Callable[[int], Figures], int]] = {
    "no reply depends on batch, chunking, prefix reuse or preemption (hash model)": (no_reply_depends_on_others, 1000),
    "greedy tokens of a real model in fp32 do not either": (real_greedy_depends_on_nothing, 200),
    "thinking stays within its budget": (thinking_stays_in_budget, 500),
    "schema-constrained generations validate": (schemas_hold, 1000),
    "storms of submits, cancels and preemptions leak no page": (storms_leak_nothing, 20_000),
    "the next turn finds its history in every mode": (next_turns_find_their_history, 100),
    "speculation changes nothing, whoever drafts (hash model)": (speculation.changes_nothing, 600),
    "greedy tokens of a real model in fp32 do not change with drafts either": (speculation.real_greedy_stays, 60),
    "budgets and schemas hold with drafts, and are reached at the same token": (speculation.rules_hold, 200),
    "storms with drafts leave no page and no reply behind": (speculation.storms_leak_nothing, 10_000),
    "calls are what they may be, and must, whoever drafts and waits": (tools.calls_are_what_they_may_be, 60),
    "text that repeats takes fewer passes; what does not pays at most 1 %": (speculation.passes_are_saved, 40),
}


def main() -> int:
    """Run all laws at full count."""
    torch.set_num_threads(2)
    results: dict[str, Any] = {"command": "make laws"}
    for name, (law, count) in LAWS.items():
        start = time.perf_counter()
        figures = law(count)
        shown = ", ".join(f"{value:,} {key}" for key, value in figures.items())
        print(f"{name}: holds\n    {shown}; {time.perf_counter() - start:.1f} s", flush=True)
        results[name] = figures
    Path(__file__).with_name("results").joinpath("laws.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

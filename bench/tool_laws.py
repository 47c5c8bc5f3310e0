"""The law of calls: what a reply calls is what it may call, and must; alone or crowded, drafted or not, the same."""

import json
import random
from itertools import groupby
from typing import Any

import jsonschema
import msgspec

from bench.speculation_laws import FREE, drafting
from bench.subjects import WORD_MARKERS, closed, crowded, said, toy_vocabulary
from octavo.core.channel import Channel
from octavo.core.sampling import Sampling
from octavo.core.vocabulary import Vocabulary
from octavo.engine.engine import Engine
from octavo.engine.types import CallForm, Calls, Request, Step
from tests.engine.hash_backend import HashBackend

MARKERS = msgspec.structs.replace(WORD_MARKERS, tool_open=3, tool_close=4)
NEWLINE = 20 + 10
SCHEMAS = {
    "get": closed({"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}}),
    "add": closed({"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": [1, 2]}}),
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
FORMS = tuple(
    CallForm(name=name, before=f'\n{{"name": "{name}", "arguments": ', schema=schema, after="}\n")
    for name, schema in SCHEMAS.items()
)
ANSWER = {"enum": [7, "yes"]}
# Replies think, stop thinking, call and end often enough to be looked at.
LOUD = {1: 2.0, 2: 4.0, 3: 4.0, 4: 2.0, 6: 4.0, NEWLINE: 2.0, 20 + ord('"'): 4.0, 20 + ord("}"): 3.0}


def words() -> Vocabulary:
    """The toy vocabulary, its borders spelled as in Qwen's: text to a grammar that does not look."""
    toy = toy_vocabulary()
    spelled = {3: b"<tool_call>", 4: b"</tool_call>"}
    tokens = tuple(spelled.get(i, token) for i, token in enumerate(toy.tokens))
    return Vocabulary(tokens=tokens, special=toy.special - {1, 2}, end=toy.end)


def requests(rng: random.Random, vocabulary: Vocabulary, count: int) -> list[Request]:
    """Of every kind: required or not, several or one, all functions or some, thinking open, closed or to be chosen."""
    made = list[Request]()
    for i in range(count):
        forms = tuple(rng.sample(FORMS, k=rng.randint(1, 3)))
        calls = Calls(forms=forms, between=rng.choice([(), (NEWLINE,), (NEWLINE, NEWLINE)]),
                      required=rng.random() < 0.6, parallel=rng.random() < 0.6)  # fmt: skip
        shape = {"schema": ANSWER} if not calls.required and rng.random() < 0.5 else {}
        head = (5, *rng.choices(range(20, 200), k=rng.randint(1, 9)))
        sampling = Sampling(temperature=rng.choice([0, 0.8, 1.5]), seed=rng.getrandbits(40), n=rng.choice([1, 1, 2]),
                            max_tokens=rng.choice([30, 100, 100]), **shape)  # fmt: skip
        made.append(Request(
            id=str(i), tokens=head + rng.choice([(), (1,), (1, 2, 11)]), sampling=sampling, markers=MARKERS,
            budget_tokens=rng.choice([None, 0, 5, 20]), vocabulary=vocabulary, calls=calls,
        ))  # fmt: skip
    return made


def calls_are_what_they_may_be(count: int) -> dict[str, int]:
    """See the file."""
    figures = {"replies": 0, "calls": 0, "several": 0, "thought first": 0, "answered": 0, "preemptions": 0,
               "drafted right": 0}  # fmt: skip
    vocabulary, seed = words(), 0
    while figures["replies"] < count:
        rng = random.Random(seed)
        seed += 1
        echo = [20 + byte for byte in b'\n{"name": "get", "arguments": {"city": "Rome", "unit": "C"}}\n']
        shape: dict[str, Any] = {"vocab_size": len(vocabulary.tokens), "loud": LOUD, "echo": echo, "strength": 5.0}
        page_tokens, drafter = rng.choice([1, 2, 8]), rng.choice(["n-gram", "garbage"])
        backend = HashBackend(page_tokens=page_tokens, pages=rng.randint(150, 250) // page_tokens, **shape)
        engine = drafting(backend, drafter, rng, token_cost=FREE, step_tokens=rng.choice([7, 512]))
        wanted = requests(rng, vocabulary, 10)
        together = crowded(engine, wanted, rng)
        for request in wanted:
            alone = Engine(HashBackend(pages=1024, **shape), speculation=None).generate(request)
            assert said(alone, request) == said(together, request), f"seed {seed - 1}, request {request.id}"
            for reply in said(alone, request):
                _check(reply, request, figures)
                figures["replies"] += 1
        figures["preemptions"] += engine.stats.preemptions
        figures["drafted right"] += engine.stats.accepted
        assert engine.pool.unused == backend.pages
    assert all(figures.values()), figures
    return figures


def _check(reply: list[Step], request: Request, figures: dict[str, int]) -> None:
    calls, vocabulary = request.calls, request.vocabulary
    assert calls is not None and vocabulary is not None
    steps = [(step.channel, step.token) for step in reply if step.token is not None]
    thought = sum(channel is Channel.THINKING for channel, _ in steps)
    assert request.budget_tokens is None or thought <= request.budget_tokens
    figures["thought first"] += bool(thought)
    outside = [token for channel, token in steps if channel is Channel.ANSWER]
    inside = [token for channel, token in steps if channel is Channel.TOOL]
    bodies = [list(run) for tool, run in groupby(inside, key=lambda token: token in (3, 4)) if not tool]
    whole = inside.count(4)
    for body in bodies[:whole]:
        text = b"".join(vocabulary.tokens[token] for token in body).decode()
        call = json.loads(text)
        schema = next(form.schema for form in calls.forms if form.name == call["name"])
        jsonschema.validate(call["arguments"], schema)
        assert text.startswith("\n{") and text.endswith("}\n") and list(call) == ["name", "arguments"]
    assert whole <= 1 or calls.parallel
    figures["calls"] += whole
    figures["several"] += whole > 1
    if reply[-1].finish == "stop":
        rest = [token for token in outside if token not in MARKERS.end]
        if calls.required:
            assert whole and outside[-1:] == [*set(outside) & {*MARKERS.end}] and rest == [*calls.between] * (whole - 1)
        elif request.sampling.schema is not None:
            text = b"".join(vocabulary.tokens[token] for token in rest).decode()
            assert rest == [*calls.between] * (whole - 1) if whole else json.loads(text) in ANSWER["enum"]
            figures["answered"] += not whole
    elif calls.required:
        assert whole or set(outside) <= {*calls.between}

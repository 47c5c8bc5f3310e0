"""What the rule of calls promises beside its law, which test_engine_laws.py runs."""

import json

import pytest

from bench import tool_laws as laws
from octavo.core.channel import Channel
from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine
from octavo.engine.tool_rule import ToolRule
from octavo.engine.types import CallForm, Calls, Request, Step
from tests.engine.hash_backend import HashBackend

WORDS = laws.words()
BARE = tuple(CallForm(name=f.name, before=f.before.strip(), schema=f.schema, after="}") for f in laws.FORMS)


def run(calls: Calls, *, prompt: tuple[int, ...] = (5, 30, 1, 2, 11), loud: dict[int, float] | None = None,
        markers=laws.MARKERS, budget: int | None = None, **sampling) -> list[Step]:  # fmt: skip
    backend = HashBackend(vocab_size=len(WORDS.tokens), loud=loud or laws.LOUD, pages=512)
    request = Request(id="r", tokens=prompt, markers=markers, vocabulary=WORDS, calls=calls,
                      budget_tokens=budget,
                      sampling=Sampling(**{"temperature": 0, "max_tokens": 200, "seed": 1} | sampling))  # fmt: skip
    return Engine(backend).generate(request)


def text(steps: list[Step], channel: Channel) -> str:
    said = [s.token for s in steps if s.channel is channel and s.token is not None and s.token not in WORDS.special]
    return b"".join(WORDS.tokens[token] for token in said).decode()


def test_a_call_that_must_come_costs_no_choice_at_its_borders():
    """Thinking off: the opening token, the closing one after a body that can only end, and the end are forced."""
    steps = run(Calls(forms=laws.FORMS, required=True, parallel=False))
    forced = [step.token for step in steps if step.forced]
    assert forced == [3, 4, 6] and steps[0].token == 3 and steps[-1].finish == "stop"


def test_a_required_call_comes_at_once_where_the_prompt_ends_with_its_thinking():
    steps = run(Calls(forms=laws.FORMS, required=True, parallel=False), prompt=(5, 30, 1, 2))
    assert steps[0].token == 3 and not text(steps, Channel.ANSWER) and steps[-1].finish == "stop"


def test_the_thinking_before_a_required_call_is_free_and_calls_nobody():
    loud = laws.LOUD | {3: 30.0, 6: 30.0, 2: -30.0}
    steps = run(Calls(forms=laws.FORMS, required=True), prompt=(5, 30, 1), loud=loud, max_tokens=20)
    assert [step.channel for step in steps] == [Channel.THINKING] * 20
    assert not {3, *laws.MARKERS.end} & {step.token for step in steps}


def test_a_call_within_thinking_is_held_to_its_grammar_and_is_forgotten_with_it():
    """It counts where the thinking is never closed; what closes it, here the budget, gives the calls back."""
    seen = set[str]()
    for seed, parallel in [(seed, parallel) for seed in range(8) for parallel in (True, False)]:
        loud = laws.LOUD | {2: -30.0, 3: 9.0, 6: -30.0, 7: -30.0}
        calls = Calls(forms=laws.FORMS, parallel=parallel)
        steps = run(calls, prompt=(5, 30, 1), loud=loud, seed=seed, temperature=1, budget=120, max_tokens=200)
        thought = [step.token for step in steps if step.channel is Channel.THINKING]
        assert [step.channel for step in steps[:120]] == [Channel.THINKING] * 120
        assert tuple(step.token for step in steps[120:123]) == laws.MARKERS.early_stop
        bodies = "".join(WORDS.tokens[t].decode("utf-8", "replace") for t in thought if t).split("<tool_call>")[1:]
        whole = [body.split("</tool_call>")[0] for body in bodies if "</tool_call>" in body]
        assert all(json.loads(body)["name"] in laws.SCHEMAS for body in whole)
        assert parallel or len(bodies) <= 1
        seen |= {"several"} if len(whole) > 1 else {"whole"} if whole else set()
        seen |= {"cut"} if len(bodies) > len(whole) else set()
        seen |= {"answered"} if steps[123].channel is Channel.ANSWER else {"called"}
    assert seen == {"several", "whole", "cut", "answered", "called"}


def test_text_that_spells_a_border_is_not_allowed_within_a_call():
    """A string may hold "</tool_call>" letter by letter, but not as the token that ends the call."""
    schema = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"],
              "additionalProperties": False}  # fmt: skip
    form = CallForm(name="f", before='{"name": "f", "arguments": ', schema=schema, after="}")
    loud = {4: 40.0, 3: 39.0, 2: 38.0, 1: 37.0, 20 + ord('"'): 30.0, 20 + ord("}"): 20.0}
    steps = run(Calls(forms=(form,), required=True, parallel=False), loud=loud)
    tools = [step.token for step in steps if step.channel is Channel.TOOL]
    assert tools.count(3) == tools.count(4) == 1 and tools[-1] == 4 and not {1, 2} & {*tools}
    assert json.loads(text(steps, Channel.TOOL)[len("<tool_call>") : -len("</tool_call>")])["name"] == "f"


def test_nothing_is_forced_in_auto_mode():
    """Without the tokens that open them there are no calls, and the reply is the one that nobody looked at."""
    loud = laws.LOUD | {3: -50.0}
    free = run(Calls(forms=laws.FORMS), loud=loud)
    backend = HashBackend(vocab_size=len(WORDS.tokens), loud=loud, pages=512)
    plain = Request(id="r", tokens=(5, 30, 1, 2, 11), sampling=Sampling(temperature=0, max_tokens=200, seed=1),
                    markers=laws.MARKERS)  # fmt: skip
    assert free == Engine(backend).generate(plain)


@pytest.mark.parametrize("schema", [None, {"enum": ["yes", 7]}])
def test_without_tokens_for_calls_the_answer_is_a_call_or_cannot_be_taken_for_one(schema: dict | None):
    seen, shape = set[str](), {} if schema is None else {"schema": schema}
    for required in (True, False):
        for seed in range(12):
            calls = Calls(forms=BARE, required=required)
            loud = {6: 4.0, 20 + ord("{"): 5.0, 20 + ord('"'): 4.0, 20 + ord("}"): 4.0}
            steps = run(calls, markers=laws.WORD_MARKERS, loud=loud, seed=seed, temperature=1, **shape)
            said = text(steps, Channel.ANSWER)
            if said.startswith('{"name'):
                seen.add("call")
                assert steps[-1].finish == "stop" and json.loads(said)["name"] in laws.SCHEMAS
            else:
                seen.add("text")
                assert not required and not said.lstrip().startswith("{")
                assert schema is None or json.loads(said) in schema["enum"]
    assert seen == {"call", "text"}


@pytest.mark.parametrize("markers", [laws.MARKERS, laws.WORD_MARKERS])
def test_a_schema_that_cannot_be_done_names_its_tool(markers):
    bad = CallForm(name="odd", before="{", schema={"type": "object", "not": {}}, after="}")
    with pytest.raises(RequestError, match=r"tool 'odd' cannot be used.*not"):
        run(Calls(forms=(*laws.FORMS, bad), required=True), markers=markers)


def test_a_rule_that_allows_any_body_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ToolRule, "allowed", lambda self, at: None)
    with pytest.raises(AssertionError):
        laws.calls_are_what_they_may_be(20)


def test_a_rule_that_shares_its_matcher_between_replies_is_noticed(monkeypatch: pytest.MonkeyPatch):
    follow = ToolRule._follow

    def sharing(self: ToolRule, token: int) -> None:
        follow(self, token)
        self.call = self.body if self.call is not None and token == self.open else self.call

    monkeypatch.setattr(ToolRule, "_follow", sharing)
    with pytest.raises((AssertionError, ValueError)):
        laws.calls_are_what_they_may_be(20)

"""What the engine promises of single requests: channels, stops, scoring, errors, and pages given back."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.laws import MARKERS, WORD_MARKERS, small_backend, tiny_model, toy_vocabulary
from octavo.core.channel import Channel, Markers
from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling
from octavo.engine.channels import start_channel
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.rules import StopRule
from octavo.engine.types import Request
from tests.engine.hash_backend import HashBackend

GRAMMARS = [{"regex": "[ab]{2,5}"}, {"choice": ("aba", "ab 猫")}, {"schema": {"const": [1, "x"]}}]
BAD = [{"regex": "(["}, {"schema": {"type": "nothing"}}, {"schema": {"$ref": "#/$defs/x"}}]


def ask(*tokens: int, markers: Markers = Markers(), budget: int | None = None, **sampling) -> Request:
    return Request(id="r", tokens=tokens, sampling=Sampling(**{"temperature": 0, "max_tokens": 20} | sampling),
                   markers=markers, budget_tokens=budget)  # fmt: skip


def test_the_start_channel_is_that_of_the_running_turn():
    assert start_channel([5, 30, 1, 31], MARKERS) is Channel.THINKING
    assert start_channel([5, 30, 1, 31, 2, 13], MARKERS) is Channel.ANSWER
    assert start_channel([5, 1, 31, 6, 5, 30], MARKERS) is Channel.ANSWER  # an earlier turn's unclosed thinking
    assert start_channel([5, 30, 1, 31, 2], MARKERS) is Channel.CLOSING


def test_a_conversation_that_goes_on_finds_its_pages():
    backend = HashBackend()
    engine = Engine(backend)
    first = engine.generate(ask(*range(20, 41)))
    again = engine.generate(ask(*range(20, 41), *tokens_of(first), 50, 51))
    assert again[-1].cached_tokens == 40  # 21 + 20 tokens, of which the last was never computed
    cold = Engine(HashBackend()).generate(ask(*range(20, 41), *tokens_of(first), 50, 51))
    assert tokens_of(again) == tokens_of(cold)


@pytest.mark.parametrize("budget", [0, 1, 7, 20])
def test_calls_that_are_thought_of_are_paid_from_the_budget(budget: int):
    """Whatever tags the model writes while it thinks, so many tokens are thinking and the early stop follows."""
    backend = HashBackend(loud={2: -50.0, 3: 4.0, 4: 4.0, 6: -50.0}, pages=256)
    for seed in range(20):
        steps = Engine(backend).generate(ask(5, 30, 1, markers=MARKERS, budget=budget, temperature=1.0, seed=seed,
                                             max_tokens=40))  # fmt: skip
        assert [step.channel for step in steps[:budget]] == [Channel.THINKING] * budget
        assert tuple(tokens_of(steps)[budget : budget + 5]) == MARKERS.early_stop
        assert all(step.channel is not Channel.THINKING for step in steps[budget:])
        assert {step.thinking_stop for step in steps[budget:]} == {"budget"}


@pytest.mark.parametrize("first", [60, 3])
def test_thinking_is_never_found_by_later_prompts(first: int):
    """Not even where it begins with a call."""
    engine = Engine(HashBackend(loud={first: 30.0}))
    prompt = (5, *range(20, 30), 1)
    engine.generate(ask(*prompt, markers=MARKERS, max_tokens=30))
    assert sum(len(node.tokens) for node in engine.pool.nodes.values()) <= len(prompt)


def test_replies_to_one_prompt_share_its_pages_and_differ():
    engine = Engine(HashBackend(pages=400))
    steps = engine.generate(ask(*range(20, 60), temperature=1.0, seed=1, n=8))
    assert engine.computed_tokens < 40 + 7 * 4 + 8 * 20
    assert len({tuple(tokens_of(steps, index=i)) for i in range(8)}) == 8


def test_scoring_gives_each_tokens_logprob_and_generates_nothing():
    backend, tokens = HashBackend(), list(range(20, 50))
    steps = Engine(backend, step_tokens=7).generate(ask(*tokens, max_tokens=0, logprobs=0))
    assert len(steps) == 1 and steps[0].token is None and steps[0].finish == "length"
    found = steps[0].prompt_logprobs
    rows = [np.float64(backend.logits(tokens[:i])) for i in range(1, len(tokens))]
    wanted = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(rows, tokens[1:], strict=True)]
    assert np.isnan(found[0]) and found[1:] == pytest.approx(wanted)


def test_scoring_equals_the_logprobs_that_sampling_reported():
    backend = small_backend(tiny_model(vocab_size=64), pages=16, page_tokens=8)
    engine = Engine(backend)
    steps = engine.generate(ask(3, 4, 5, temperature=1.0, seed=3, logprobs=0, max_tokens=30))
    scored = engine.generate(ask(3, 4, 5, *tokens_of(steps), max_tokens=0, logprobs=0))[0].prompt_logprobs
    assert scored[3:] == pytest.approx([s.logprob for s in steps], abs=1e-4)


@given(st.text(alphabet="abå猫", min_size=0, max_size=30), st.lists(st.text(alphabet="abå猫", min_size=1, max_size=3),
       min_size=1, max_size=3), st.randoms())  # fmt: skip
def test_a_stop_string_is_found_where_it_first_occurs_however_the_text_is_cut(text: str, stops: list[str], rng):
    words = toy_vocabulary()
    rule, data, ended = StopRule(stops, words), text.encode(), False
    for byte in data:
        rule.accept(20 + byte, Channel.ANSWER)
        ended = ended or rule.finished()
    places = [place for stop in stops if (place := data.find(stop.encode())) >= 0]
    if not places:
        assert not ended and rule.keep_bytes is None
    else:  # the one that ends first ends the reply; of those that end together the one that begins first counts
        end = min(data.find(s.encode()) + len(s.encode()) for s in stops if s.encode() in data)
        starts = [end - len(s.encode()) for s in stops if data[:end].endswith(s.encode())]
        assert rule.keep_bytes == min(starts)


def test_end_thinking_closes_it_at_once_and_only_where_there_is_thinking():
    for prompt, thinking in (((5, 30, 1), True), ((5, 30), False)):
        engine = Engine(HashBackend(loud={1: -50, 2: -50, 6: -50}))
        engine.submit(ask(*prompt, markers=MARKERS, max_tokens=30))
        steps = engine.step() + engine.step()
        engine.end_thinking("r")
        while engine.busy:
            steps += engine.step()
        forced = [s.token for s in steps if s.forced]
        assert forced == (list(MARKERS.early_stop) if thinking else [])
        assert steps[-1].thinking_stop == ("user" if thinking else None)


@pytest.mark.parametrize("settings", GRAMMARS)
def test_each_kind_of_grammar_holds_and_ends(settings: dict):
    words = toy_vocabulary()
    engine = Engine(HashBackend(vocab_size=len(words.tokens), pages=256))
    for i in range(20):
        request = Request(id="r", tokens=(5, 20 + i), markers=WORD_MARKERS, vocabulary=words, budget_tokens=9,
                          sampling=Sampling(temperature=1.0, seed=i, max_tokens=60, **settings))  # fmt: skip
        steps = engine.generate(request)
        text = b"".join(words.tokens[t] for s in steps if (t := s.token) is not None and s.channel is Channel.ANSWER
                        and t not in words.special).decode()  # fmt: skip
        assert steps[-1].finish == "stop"
        if "regex" in settings:
            assert re.fullmatch(settings["regex"], text)
        else:
            assert text in settings["choice"] if "choice" in settings else json.loads(text) == [1, "x"]


@pytest.mark.parametrize("settings", [{"choice": ("\x7f", 'a\x7f\x80"\\')}, {"regex": "\x7f{1,3}"}])
def test_a_grammar_may_hold_control_characters(settings: dict):
    words = toy_vocabulary()
    steps = Engine(HashBackend(vocab_size=len(words.tokens), pages=256)).generate(Request(
        id="r", tokens=(5, 20), markers=WORD_MARKERS, vocabulary=words, budget_tokens=0,
        sampling=Sampling(temperature=0, max_tokens=20, **settings),
    ))  # fmt: skip
    text = b"".join(words.tokens[t] for t in tokens_of(steps) if t not in words.special).decode()
    assert steps[-1].finish == "stop"
    assert text in settings["choice"] if "choice" in settings else set(text) == {"\x7f"}


def test_a_gap_after_thinking_that_the_prompt_closed_is_no_early_stop():
    """Not thinking is a budget of 0: the template writes <think></think>, the model the gap."""
    engine = Engine(HashBackend(loud={13: 9.0}))
    steps = engine.generate(ask(5, 30, 1, 2, markers=MARKERS, budget=0, max_tokens=9))
    assert tokens_of(steps)[0] == 13 and not any(step.forced for step in steps)
    assert [step.channel for step in steps] == [Channel.CLOSING] + [Channel.ANSWER] * 8
    assert steps[-1].thinking_stop is None


@pytest.mark.parametrize("settings", GRAMMARS)
def test_an_answer_may_begin_where_the_prompt_ends_with_its_thinking(settings: dict):
    """Some templates write <think></think> and no gap."""
    words = toy_vocabulary()
    engine = Engine(HashBackend(vocab_size=len(words.tokens), pages=256))
    for i in range(5):
        steps = engine.generate(Request(
            id="r", tokens=(5, 20 + i, 1, 2), markers=WORD_MARKERS, vocabulary=words,
            sampling=Sampling(temperature=1.0, seed=i, max_tokens=60, **settings),
        ))  # fmt: skip
        assert (steps[-1].finish, steps[-1].error) == ("stop", None)


@pytest.mark.parametrize("settings", BAD)
def test_a_grammar_that_cannot_be_is_refused_at_once(settings: dict):
    words = toy_vocabulary()
    engine = Engine(HashBackend(vocab_size=len(words.tokens)))
    with pytest.raises(RequestError, match="cannot be used"):
        engine.submit(
            Request(id="r", tokens=(5,), markers=WORD_MARKERS, vocabulary=words, sampling=Sampling(**settings))
        )
    assert not engine.busy and engine.pool.unused == engine.pool.size


@pytest.mark.parametrize("request_, words", [
    (ask(), "no tokens"), (ask(5, 64), "outside"), (ask(*[5] * 300), "300 tokens"),
    (ask(5, logit_bias={64: 1.0}), "token 64"), (ask(5, logit_bias={7: 1e39}), "token 7"),
    (ask(5, logit_bias={7: float("nan")}), "token 7"),
])  # fmt: skip
def test_a_request_that_cannot_be_done_is_refused_and_leaves_nothing(request_: Request, words: str):
    engine = Engine(HashBackend())
    with pytest.raises(RequestError, match=words):
        engine.submit(request_)
    assert not engine.busy and engine.step() == []


def test_a_reply_that_cannot_go_on_does_not_stop_the_others():
    class Broken(HashBackend):
        def logits(self, tokens):
            row = super().logits(tokens)
            return row * np.nan if tokens[0] == 63 and len(tokens) > 6 else row

    engine = Engine(Broken())
    for id, first in (("bad", 63), ("good", 20)):
        engine.submit(Request(id=id, tokens=(first, 21), sampling=Sampling(temperature=0, max_tokens=12)))
    steps = [step for _ in range(40) for step in engine.step()]
    ends = {step.id: step for step in steps if step.finish}
    assert ends["bad"].finish == "error" and "not finite" in (ends["bad"].error or "")
    assert ends["good"].finish == "length" and not engine.busy and engine.pool.unused == engine.pool.size


@pytest.mark.parametrize("pools", [False, True])
def test_scores_of_a_broken_model_are_an_error_and_no_number(pools: bool):
    class Broken(HashBackend):
        def logits(self, tokens):
            return super().logits(tokens) * (np.nan if len(tokens) == 3 else 1)

    engine, sampling = Engine(Broken()), Sampling(max_tokens=0, logprobs=None if pools else 0)
    steps = engine.generate(Request(id="r", tokens=(20, 21, 22, 23, 24), sampling=sampling, pools=pools))
    assert [step.finish for step in steps] == ["error"] and "not finite" in (steps[0].error or "")
    assert not engine.busy and engine.pool.unused == engine.pool.size


def test_no_more_is_found_of_a_prompt_than_it_has():
    """An early stop that is forced at once is in the cache too, the second time."""
    engine, seen = Engine(HashBackend()), list[int]()
    for _ in range(2):
        seen.append(engine.generate(ask(5, 30, 31, 1, markers=MARKERS, budget=0))[-1].cached_tokens)
    assert seen == [0, 4] and engine.stats.cached_tokens == 4


def test_what_one_tenant_asked_is_not_found_by_another():
    engine, tokens = Engine(HashBackend()), tuple(range(20, 60))

    def cached(space: str) -> int:
        request = Request(id="r", tokens=tokens, sampling=Sampling(temperature=0, max_tokens=2), space=space)
        return engine.generate(request)[-1].cached_tokens

    assert [cached(space) for space in ("one", "two", "one", "two", "")] == [0, 0, 39, 39, 0]

"""Rollouts: what was sampled is what is trained, with the very chances it was sampled with."""

import math
import random

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from octavo.chat.next_turn import Conversation
from octavo.core.deltas import Finished, Usage
from octavo.core.messages import Message, ToolCall
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Score, Trajectory, Turn
from octavo.engine.cpu_backend import CpuBackend
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.head import tell
from octavo.tasks import TASKS as ALL_TASKS
from octavo.train.batch import pack
from octavo.train.lessons import cut_short
from octavo.train.measure import by_budget, calls_of, measure, passes, share
from octavo.train.own import SMALL_BYTES, OwnChat
from octavo.train.rollout import How, rollout, to_sample
from tests.serve.mini import config
from tests.train.guesses import OFF, ON, TASKS, Look, guesser, problems, words

HOW = How(replies=3, sampling=Sampling(max_tokens=24), seed=5)


def own(model: Decoder, *, exact: bool) -> OwnChat:
    tokenizer, form = words()
    return OwnChat(model, tokenizer=tokenizer, form=form, exact=exact, cache_bytes=1 << 26)


def said(done: list[Trajectory]) -> list[tuple[tuple[int, ...], ...]]:
    return [tuple(turn.tokens for turn in one.turns) for one in done]


def gap(model: Decoder, done: list[Trajectory]) -> float:
    """Largest difference of a log-probability between rollout and trainer, nats."""
    batch = pack([to_sample(one) for one in done])
    with torch.no_grad():
        hidden_TD = model(batch.tokens_T, PackedContext(batch.lengths))
        told = tell(hidden_TD[batch.rows_N], model.head_weight, batch.targets_N)
    return float((told.logprobs_N - batch.logprobs_N).abs().max())


def test_log_probabilities_of_rollout_and_trainer_are_one_in_fp32():
    model = guesser()
    done = rollout(own(model, exact=True).chat, problems(8) + problems(8, task="look"), tasks=TASKS, how=HOW)
    assert gap(model, done) < 1e-5  # measured 3e-6


def test_log_probabilities_of_our_kernels_are_those_of_bf16():
    model = guesser()
    done = rollout(own(model, exact=False).chat, problems(8), tasks=TASKS, how=HOW)
    assert 1e-5 < gap(model, done) < 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_neither_order_nor_company_changes_a_trajectory(exact: bool):
    chat, asked = own(guesser(), exact=exact).chat, problems(6) + problems(4, task="look")
    there = said(rollout(chat, asked, tasks=TASKS, how=HOW))
    back = said(rollout(chat, asked[::-1], tasks=TASKS, how=HOW))
    assert there == [back[3 * i + j] for i in reversed(range(len(asked))) for j in range(3)]
    assert there[:3] == said(rollout(chat, asked[:1], tasks=TASKS, how=HOW))
    assert there != said(rollout(chat, asked, tasks=TASKS, how=replace(HOW, seed=6)))


@pytest.mark.parametrize("count", [1, 7])
def test_a_small_model_has_an_engine_for_each_of_two_threads_and_says_the_same(
    count: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("octavo.train.own.own_threads", lambda: 3)
    model, replies = guesser(), list[object]()
    for bound, threads in ((SMALL_BYTES, [1, 1]), (0, [3])):
        monkeypatch.setattr("octavo.train.own.SMALL_BYTES", bound)
        chat = own(model, exact=False).chat
        backends = [one.engine.backend for one in (chat, *chat.beside)]
        assert [b.threads for b in backends if isinstance(b, CpuBackend)] == threads
        done = rollout(chat, problems(count) + problems(count, task="look"), tasks=TASKS, how=HOW)
        replies.append([(one.problem.id, said([one])) for one in done])
    assert replies[0] == replies[1]


class Broken(Look):
    """Its tool fails at one problem."""

    def call(self, problem: Problem, call: ToolCall) -> str:
        if problem.id == "3":
            raise OSError("no tool there")
        return super().call(problem, call)


def test_where_one_engine_fails_none_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("octavo.train.own.own_threads", lambda: 2)
    chat = own(guesser(), exact=False).chat
    asked = problems(6, task="look")
    with pytest.raises(OSError, match="no tool there"):
        rollout(chat, asked, tasks={"look": Broken()}, how=replace(HOW, replies=30))
    assert not any(one.engine.busy for one in (chat, *chat.beside))
    another = own(guesser(), exact=False).chat  # which nothing has failed in
    assert said(rollout(chat, asked, tasks=TASKS, how=HOW)) == said(rollout(another, asked, tasks=TASKS, how=HOW))


def test_only_what_the_model_sampled_has_a_weight():
    chat = own(guesser(), exact=True).chat
    asked = [replace(p, thinking=replace(p.thinking, budget_tokens=2)) for p in problems(16, task="look")]
    done = rollout(chat, asked, tasks=TASKS, how=HOW)
    several = [one for one in done if len(one.turns) > 1]
    forced = [one for one in done if any(turn.usage.forced_tokens for turn in one.turns)]
    assert several and forced
    for one in done:
        found = to_sample(one, advantage=-0.5)
        sampled = {i + len(t.prompt) for t in one.turns for i, p in enumerate(t.logprobs) if not math.isnan(p)}
        assert set(np.flatnonzero(found.weights)) == sampled
        assert len(sampled) == sum(t.usage.completion_tokens - t.usage.forced_tokens for t in one.turns)
        assert found.advantages is not None and set(np.flatnonzero(found.advantages)) == sampled
        text = chat.tokenizer.decode([int(t) for t, w in zip(found.tokens, found.weights, strict=True) if w])
        assert "it is" not in text and "Considering" not in text


def test_later_turns_go_on_from_the_sampled_tokens_and_hear_the_tool():
    done = rollout(own(guesser(), exact=True).chat, problems(8, task="look"), tasks=TASKS, how=HOW)
    for one in done:
        for before, after in zip(one.turns, one.turns[1:], strict=False):
            known = (*before.prompt, *before.tokens)
            assert after.prompt[: len(known)] == known and before.reason == "tool_calls"
            assert f"it is {one.problem.answer}" in words()[0].decode(after.prompt[len(known) :])


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_is_kept_exactly(budget: int):
    asked = [replace(p, thinking=Thinking(mode="on", budget_tokens=budget)) for p in problems(8)]
    done = rollout(own(guesser(), exact=True).chat, asked, tasks=TASKS, how=How(sampling=Sampling(max_tokens=60)))
    spent = [one.turns[0].usage.thinking_tokens - one.turns[0].usage.closing_tokens for one in done]
    assert max(spent) == budget and any(one.turns[0].usage.thinking_stop == "budget" for one in done) == (budget > 0)


def test_a_reply_cut_by_its_length_is_said_to_be():
    done = rollout(own(guesser(), exact=True).chat, problems(4), tasks=TASKS, how=How(sampling=Sampling(max_tokens=1)))
    assert all(one.truncated and one.score.value == 0 for one in done)


def test_a_whole_reply_is_read_as_it_is_read_token_by_token():
    chat = own(guesser(), exact=True).chat
    for problem in problems(8) + problems(8, task="look"):
        asked = Conversation(messages=problem.messages, tools=problem.tools, thinking=problem.thinking)
        request, (reader,) = chat.prepare(asked, sampling=Sampling(max_tokens=30, seed=1))
        steps = chat.engine.generate(request)
        deltas = [delta for step in steps for delta in reader.read(step, after_s=0.0)]
        _, (other,) = chat.prepare(asked, sampling=Sampling(max_tokens=30, seed=1))
        assert isinstance(deltas[-1], Finished) and other.whole(steps) == deltas[-1]


@pytest.mark.parametrize("exact", [True, False])
def test_a_refreshed_chat_says_what_a_new_one_says(exact: bool):
    model, how = guesser(), replace(HOW, sampling=Sampling(temperature=0, max_tokens=24))
    mine = own(model, exact=exact)
    before = said(rollout(mine.chat, problems(8), tasks=TASKS, how=how))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    after = said(rollout(mine.refresh(), problems(8), tasks=TASKS, how=how))
    assert after == said(rollout(own(model, exact=exact).chat, problems(8), tasks=TASKS, how=how)) != before


def test_a_model_of_experts_is_refreshed_too():
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    model, how = build({**config(), "model_type": "qwen3_moe", **experts}), replace(HOW, replies=1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    mine = own(model, exact=False)
    before = said(rollout(mine.chat, problems(4), tasks=TASKS, how=how))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = said(rollout(mine.refresh(), problems(4), tasks=TASKS, how=how))
    assert after == said(rollout(own(model, exact=False).chat, problems(4), tasks=TASKS, how=how)) != before


def test_measures_of_a_guesser():
    chat = own(guesser(), exact=False).chat
    how = How(replies=4, sampling=Sampling(max_tokens=40))
    found = measure(chat, problems(60), tasks=TASKS, how=how)
    assert 0.15 < found.accuracy.value < 0.3
    assert found.accuracy == share(60 * found.accuracy.value, 60)  # replies to one problem are not independent
    assert (
        found.accuracy.value == pytest.approx(found.passed[1]) and found.passed[4] > found.passed[2] > found.passed[1]
    )
    assert found.followed > 0.95 and found.truncated < 0.05
    assert measure(chat, problems(20), tasks=TASKS, thinking=OFF, how=how).thinking_tokens == 0
    assert measure(chat, problems(20), tasks=TASKS, thinking=ON, how=how).thinking_tokens > 1
    curve = by_budget(chat, problems(10), [0, 2, 100], tasks=TASKS, how=how)
    assert curve[100].all.thinking_tokens > curve[2].all.thinking_tokens > curve[0].all.thinking_tokens == 0
    assert all(one.all.most_thinking <= budget for budget, one in curve.items())
    cut = curve[2].cut
    assert cut and 0 < cut.count <= 40 and curve[100].cut is None


def test_calls_that_cannot_be_carried_out_are_counted():
    task = ALL_TASKS["tools"]
    problem = next(p for p in map(task.problem, range(50)) if task.golden(p))
    good = task.golden(problem)[0]
    call = good.tool_calls[0]
    wrong = replace(good, tool_calls=(replace(call, arguments="{"), replace(call, name="none"), call))
    for message, expected in ((good, [True]), (wrong, [False, False, True]),
                              (Message(role="assistant", content="<tool_call>\n{"), [False])):  # fmt: skip
        turn = Turn(prompt=(1,), tokens=(2,), logprobs=(0.0,), message=message, reason="stop", usage=Usage())
        one = Trajectory(problem=problem, turns=(turn,), score=Score(value=0.0, answer=None, why=""), truncated=False)
        assert calls_of(one, task) == expected


def test_intervals_and_passes_are_the_published_ones():
    half = share(5, 10)  # 0.2366, 0.7634: Wilson's interval for 5 of 10
    assert (half.low, half.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert share(0, 10).low == 0 and share(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert passes(4, 1, 1) == 0.25 and passes(4, 1, 2) == 0.5 and passes(4, 0, 4) == 0 and passes(4, 1, 4) == 1


def test_a_lesson_with_cut_thinking_begins_as_a_budget_makes_replies_begin():
    chat, draw = own(guesser(), exact=False).chat, random.Random(0)
    asked = [replace(problem, thinking=ON) for problem in problems(12)]
    found, how = [], How(sampling=Sampling(temperature=0, max_tokens=120))
    for whole in rollout(chat, asked, tasks=TASKS, how=how):
        turn, early = whole.turns[0], chat.markers.early_stop
        lesson = cut_short(chat.markers, whole, draw)
        tokens, prompt = tuple(lesson.tokens.tolist()), len(turn.prompt)
        stop = next(i for i in range(prompt, len(tokens)) if tokens[i : i + len(early)] == early)
        assert tokens[:stop] == (*turn.prompt, *turn.tokens)[:stop]
        answer = tokens[stop + len(early) :]
        assert turn.tokens[-len(answer) :] == answer
        assert lesson.weights.tolist() == [0.0] * (len(tokens) - len(answer)) + [1.0] * len(answer)
        budget = replace(whole.problem, thinking=Thinking(mode="on", budget_tokens=stop - prompt))
        (cut,) = rollout(chat, [budget], tasks=TASKS, how=how)
        found.append(cut.turns[0].usage.thinking_stop)
        if found[-1] == "budget":
            assert (*turn.prompt, *cut.turns[0].tokens)[: stop + len(early)] == tokens[: stop + len(early)]
    assert "budget" in found


@pytest.mark.parametrize("gap", [0, 1, 3])  # of newlines: the format has 2
def test_the_answer_behind_cut_thinking_is_whole_however_its_gap_was_written(gap):
    tokenizer = words()[0]
    newline = tokenizer.encode("\n")
    markers = replace(words()[1].markers(tokenizer), gap=(*newline, *newline))
    assert markers.think_close is not None
    thinking, answer = tuple(tokenizer.encode("blue red")), (*tokenizer.encode("red"), markers.end[0])
    tokens = (*thinking, markers.think_close, *newline * gap, *answer)
    turn = Turn(prompt=(1,), tokens=tokens, logprobs=(0.0,) * len(tokens), reason="stop", usage=Usage(),
                message=Message(role="assistant", content="red"))  # fmt: skip
    (problem,) = problems(1)
    one = Trajectory(problem=problem, turns=(turn,), score=Score(value=1.0, answer=None, why=""), truncated=False)
    lesson = cut_short(markers, one, random.Random(0))
    assert tuple(lesson.tokens.tolist())[-len(answer) :] == answer and sum(lesson.weights) == len(answer)

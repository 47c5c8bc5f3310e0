"""How good a model is at problems: accuracy with its uncertainty, modes, budgets; everything in one batch."""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from octavo.chat.local import LocalChat
from octavo.core.errors import TaskError
from octavo.core.messages import ToolCall
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Split, Trajectory
from octavo.tasks.base import Task
from octavo.text.chat.hermes import TOOLS
from octavo.train.ranks import Ranks
from octavo.train.rollout import How, rollout

SURE = 1.96  # standard deviations: 95 %
GREEDY = How(sampling=Sampling(temperature=0))


class Share(Struct, frozen=True, kw_only=True):
    """A share of `count` independent things, 0..1, with its 95 % interval (Wilson, 1927)."""

    value: float
    count: int
    low: float
    high: float


class Measured(Struct, frozen=True, kw_only=True):
    """accuracy   mean score;   passed   k -> chance that the best of k replies is right, for k up to the replies
    truncated   replies that did not end;   followed   replies that thought when they should, and only then
    tokens, thinking_tokens   of a reply, mean; the thinking without what closes it, as a budget counts it
    most_thinking   of a reply, in tokens;   valid_calls   of those that were made; None: there were none
    """

    accuracy: Share
    truncated: float
    followed: float
    tokens: float
    thinking_tokens: float
    most_thinking: int
    valid_calls: Share | None
    passed: dict[int, float]


def problems_of(task: Task, levels: Sequence[int], *, count: int, split: Split = "test") -> list[Problem]:
    """So many different problems, spread evenly over the levels; fewer where there are not so many."""
    found = dict[str, Problem]()
    for seed in range(20 * count):
        if len(found) == count:
            break
        problem = task.problem(seed, level=levels[len(found) % len(levels)], split=split)
        found.setdefault(problem.key, problem)
    return list(found.values())


def measure(chat: LocalChat, problems: Sequence[Problem], *, tasks: Mapping[str, Task],
            thinking: Thinking | None = None, how: How = GREEDY, ranks: Ranks = Ranks()) -> Measured:  # fmt: skip
    """All of it for some problems, which ranks share.   thinking   how they are asked; None: as each says itself"""
    asked = [problem if thinking is None else replace(problem, thinking=thinking) for problem in problems]
    done = rollout(chat, asked, tasks=tasks, how=how, ranks=ranks)
    return summary(chat, done, tasks=tasks, replies=how.replies)


class Cut(Struct, frozen=True, kw_only=True):
    """Only those replies whose thinking a budget cut, and the same problems with the least and the largest budget:
    what a part of the thinking is worth by itself. All three 0..1.
    """

    count: int
    right: float
    least: float
    most: float


class Budgeted(Struct, frozen=True, kw_only=True):
    """One budget's figures.   cut   None: no thinking was cut"""

    all: Measured
    cut: Cut | None


def by_budget(chat: LocalChat, problems: Sequence[Problem], budgets: Sequence[int], *, tasks: Mapping[str, Task],
              how: How = GREEDY) -> dict[int, Budgeted]:  # fmt: skip
    """Thinking on, with each budget of thinking tokens: the curve of accuracy, and what the thinking really took.

    budgets   rising; 0 asks for no thinking at all
    """
    ways = [Thinking(mode="on", budget_tokens=budget) if budget else Thinking(mode="off") for budget in budgets]
    budgeted = [replace(problem, thinking=way) for way in ways for problem in problems]
    parts = _groups(rollout(chat, budgeted, tasks=tasks, how=how), len(problems) * how.replies)
    return {
        budget: Budgeted(all=summary(chat, part, tasks=tasks, replies=how.replies), cut=_cut(part, parts))
        for budget, part in zip(budgets, parts, strict=True)
    }


def _cut(part: Sequence[Trajectory], parts: Sequence[Sequence[Trajectory]]) -> Cut | None:
    places = [i for i, one in enumerate(part) if any(turn.usage.thinking_stop == "budget" for turn in one.turns)]
    if not places:
        return None
    right, least, most = (
        sum(done[i].score.value for i in places) / len(places) for done in (part, parts[0], parts[-1])
    )
    return Cut(count=len(places), right=right, least=least, most=most)


def summary(chat: LocalChat, done: Sequence[Trajectory], *, tasks: Mapping[str, Task], replies: int) -> Measured:
    """replies   trajectories of one problem stand together, so many each; the interval counts them as one"""
    count = len(done)
    groups = [sum(one.score.value == 1 for one in group) for group in _groups(done, replies)]
    sizes = [1 << i for i in range(replies.bit_length()) if 1 << i <= replies]
    thought = [sum(turn.usage.thinking_tokens - turn.usage.closing_tokens for turn in one.turns) for one in done]
    calls = [valid for one in done for valid in calls_of(one, tasks[one.problem.task])]
    return Measured(
        accuracy=share(sum(one.score.value for one in done) / replies, len(groups)),
        truncated=sum(one.truncated for one in done) / count,
        followed=sum(follows(chat, one) for one in done) / count,
        tokens=sum(turn.usage.completion_tokens for one in done for turn in one.turns) / count,
        thinking_tokens=sum(thought) / count, most_thinking=max(thought),
        valid_calls=share(sum(calls), len(calls)) if calls else None,
        passed={k: sum(passes(replies, right, k) for right in groups) / len(groups) for k in sizes},
    )  # fmt: skip


def calls_of(trajectory: Trajectory, task: Task) -> list[bool]:
    """Whether each call that was made, or begun, is one that the task's tools can carry out."""
    found = list[bool]()
    for turn in trajectory.turns:
        found += [_carried_out(task, trajectory.problem, call) for call in turn.message.tool_calls]
        found += [False] * turn.message.text.count(
            str(TOOLS.tool_open)
        )  # the reader leaves a call that is none in the text
    return found


def _carried_out(task: Task, problem: Problem, call: ToolCall) -> bool:
    try:
        return not task.call(problem, call).startswith("error")
    except TaskError:
        return False


def _groups(done: Sequence[Trajectory], size: int) -> list[Sequence[Trajectory]]:
    return [done[first : first + size] for first in range(0, len(done), size)]


def follows(chat: LocalChat, trajectory: Trajectory) -> bool:
    """Whether the first reply thought where it was to think, and did not where not. An empty thinking is none."""
    problem, message = trajectory.problem, trajectory.turns[0].message
    wanted = chat.form.effective_thinking(problem.messages, problem.thinking)
    return bool((message.thinking or "").strip()) == wanted


def share(right: float, count: int) -> Share:
    """`right` of `count`: partial scores count in part, and make the interval a little too wide."""
    mean, spread = right / count, SURE**2 / count
    middle = (mean + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (mean * (1 - mean) + spread / 4)) / (1 + spread)
    return Share(value=mean, count=count, low=max(0.0, middle - half), high=min(1.0, middle + half))


def passes(replies: int, right: int, k: int) -> float:
    """Chance that k of the replies, drawn without return, hold a right one (Chen et al. 2021, arXiv:2107.03374)."""
    return 1.0 - math.comb(replies - right, k) / math.comb(replies, k)

"""How good a model is at problems: accuracy with its uncertainty, modes, budgets; everything in one batch."""

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from octavo.chat.local import LocalChat
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Trajectory
from octavo.tasks.base import Task
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
    tokens, thinking_tokens   of a reply, mean
    """

    accuracy: Share
    truncated: float
    followed: float
    tokens: float
    thinking_tokens: float
    passed: dict[int, float]


def measure(chat: LocalChat, problems: Sequence[Problem], *, tasks: Mapping[str, Task],
            thinking: Thinking | None = None, how: How = GREEDY) -> Measured:  # fmt: skip
    """All of it for some problems.   thinking   how they are asked; None: as each says itself"""
    asked = [problem if thinking is None else replace(problem, thinking=thinking) for problem in problems]
    done = rollout(chat, asked, tasks=tasks, how=how)
    return summary(done, replies=how.replies, follows=lambda one: follows(chat, one))


def by_budget(chat: LocalChat, problems: Sequence[Problem], budgets: Sequence[int], *, tasks: Mapping[str, Task],
              how: How = GREEDY) -> dict[int, Measured]:  # fmt: skip
    """Thinking on, with each budget of thinking tokens: the curve of accuracy, and what the thinking really took."""
    budgeted = [replace(p, thinking=Thinking(mode="on", budget_tokens=budget)) for budget in budgets for p in problems]
    done = rollout(chat, budgeted, tasks=tasks, how=how)
    size = len(problems) * how.replies
    return {
        budget: summary(part, replies=how.replies, follows=lambda one: follows(chat, one))
        for budget, part in zip(budgets, _groups(done, size), strict=True)
    }


def summary(done: Sequence[Trajectory], *, replies: int, follows: Callable[[Trajectory], bool]) -> Measured:
    """replies   trajectories of one problem stand together, so many each"""
    count = len(done)
    groups = [sum(one.score.value == 1 for one in group) for group in _groups(done, replies)]
    sizes = [1 << i for i in range(replies.bit_length()) if 1 << i <= replies]
    return Measured(
        accuracy=share(sum(one.score.value for one in done), count),
        truncated=sum(one.truncated for one in done) / count,
        followed=sum(follows(one) for one in done) / count,
        tokens=sum(turn.usage.completion_tokens for one in done for turn in one.turns) / count,
        thinking_tokens=sum(turn.usage.thinking_tokens for one in done for turn in one.turns) / count,
        passed={k: sum(passes(replies, right, k) for right in groups) / len(groups) for k in sizes},
    )


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

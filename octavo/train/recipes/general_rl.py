"""General RL, both modes in one run: the format, the mode that was asked for, budgets of thinking, tools.

A reply is good where it ends, thinks where it is to think and only there, makes no call that cannot be carried out, and
is right; most of the reward is for being right, so that the modes are not bought with mistakes. Being right counts
where it can be expected: a chain of sums that is answered without thinking, or with less than it takes, is right by
luck, and luck teaches nothing; in a search, what was found before a budget ended is more than luck.
Source: Qwen3 report, arXiv:2505.09388, section 4.4.
"""

import random
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from octavo.core.errors import ConfigError
from octavo.core.sampling import Thinking
from octavo.core.task import Problem, Trajectory
from octavo.tasks import TASKS
from octavo.train.curriculum import Level
from octavo.train.far import Sampled
from octavo.train.lessons import NO_THINK, THINK, flagged
from octavo.train.measure import calls_of, follows
from octavo.train.policy import Reward
from octavo.train.recipes import rl
from octavo.train.run import Progress

OBEYED = 0.3  # of the reward, for a reply that does as it is told and is wrong
Budgets = tuple[int, int]  # thinking tokens, least and most


class Settings(rl.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe: those of rl; the mode is drawn for each problem, whatever `mode` says."""

    budgets: Annotated[Budgets, Meta(description="JSON list: thinking tokens of a budget, least and most")] = (8, 192)


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder. Raises ConfigError for budgets that there cannot be."""
    least, most = settings.budgets
    if not 0 < least <= most:
        raise ConfigError(f"budgets: {least} to {most} thinking tokens; wanted are 1 or more, the least first.")
    posed = partial(pose, budgets=settings.budgets)
    return rl.learn(settings, recipe="general_rl", pose=posed, reward=reward_of, progress=progress)


def pose(draw: random.Random, level: Level, *, budgets: Budgets) -> Problem:
    """A problem and how it is to be thought about: by a flag, by the setting, by a budget, or by nothing."""
    problem = TASKS[level[0]].problem(draw.getrandbits(40), level=level[1], split="train")
    if any(flag in message.text for message in problem.messages for flag in (THINK, NO_THINK)):
        return problem
    search = TASKS[level[0]].shows == "search"  # there, what was found before a budget ended is worth learning
    kind = draw.choice(("flag", "flag", "no flag", "setting", *(["budget"] * (4 if search else 1))))
    if kind == "flag":
        return replace(problem, messages=flagged(problem, draw.choice((THINK, NO_THINK))))
    if kind == "setting":
        return replace(problem, thinking=Thinking(mode=draw.choice(("on", "off"))))
    if kind == "budget":
        return replace(problem, thinking=Thinking(mode="on", budget_tokens=draw.randint(*budgets)))
    return problem


def reward_of(own: Sampled) -> Reward:
    """0..1 of a trajectory."""

    def reward(one: Trajectory) -> float:
        called = all(calls_of(one, TASKS[one.problem.task]))
        obeyed = called and follows(own.chat, one) and not one.truncated
        return obeyed * (OBEYED + (1 - OBEYED) * one.score.value if expected(own, one.problem) else 1.0)

    return reward


def expected(own: Sampled, problem: Problem) -> bool:
    """Whether a reply could be right by more than luck."""
    shows, asked = TASKS[problem.task].shows, problem.thinking
    if shows in ("steps", "search") and not own.chat.form.effective_thinking(problem.messages, asked):
        return False
    if shows == "steps":  # a search that was cut has seen some of what there is, a chain has no end
        return asked.budget_tokens is None
    return shows != "modes"  # there the mode is all

"""The suite's exam: held-out problems of every family, in both modes, greedy and sampled; and by thinking budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Split
from octavo.tasks import TASKS
from octavo.train.measure import Measured, by_budget, measure
from octavo.train.own import OwnChat
from octavo.train.rollout import How

LONGEST = 320  # tokens of a reply: the longest working of all families and its answer
GREEDY = How(sampling=Sampling(temperature=0, max_tokens=LONGEST))
SAMPLED = How(sampling=Sampling(temperature=1, max_tokens=LONGEST))
MODES: Mapping[str, Thinking] = {"thinking": Thinking(mode="on"), "direct": Thinking(mode="off")}
BUDGETS = (0, 8, 16, 32, 48, 64, 96, 160)


def problems_of(name: str, levels: Sequence[int], *, count: int, split: Split = "test") -> list[Problem]:
    """So many different problems, spread evenly over the levels."""
    found = dict[str, Problem]()
    for seed in range(20 * count):
        if len(found) == count:
            break
        problem = TASKS[name].problem(seed, level=levels[len(found) % len(levels)], split=split)
        found.setdefault(problem.key, problem)
    return list(found.values())


def exam(own: OwnChat, levels: Mapping[str, Sequence[int]], *, count: int, split: Split = "test",
         sampled: bool = True) -> dict[str, Any]:  # fmt: skip
    """family -> mode -> "greedy" and "sampled" -> figures; and "switches": whether flags are followed."""
    chat, found = own.refresh(), dict[str, Any]()
    for name in levels:
        problems = problems_of(name, levels[name], count=count, split=split)
        found[name] = {"shows": TASKS[name].shows}
        for mode, thinking in MODES.items():
            found[name][mode] = {"greedy": told(measure(chat, problems, tasks=TASKS, thinking=thinking, how=GREEDY))}
            if sampled:
                found[name][mode]["sampled"] = told(
                    measure(chat, problems, tasks=TASKS, thinking=thinking, how=SAMPLED)
                )
    flagged = problems_of("switches", (1, 2, 3), count=count, split=split)
    found["switches"] = {"shows": "format", "flags": {"greedy": told(measure(chat, flagged, tasks=TASKS, how=GREEDY))}}
    return found


def budget_curves(own: OwnChat, levels: Mapping[str, Sequence[int]], *, count: int) -> dict[str, Any]:
    """family -> budget -> figures, greedy, of problems that take some thinking: the upper half of the levels."""
    chat, found = own.refresh(), dict[str, Any]()
    for name, all_levels in levels.items():
        problems = problems_of(name, list(all_levels)[len(all_levels) // 2 :], count=count)
        curve = by_budget(chat, problems, BUDGETS, tasks=TASKS, how=GREEDY)
        found[name] = {str(budget): told(measured) for budget, measured in curve.items()}
    return found


def told(measured: Measured) -> dict[str, Any]:
    """As plain JSON."""
    return msgspec.to_builtins(measured, str_keys=True)


def means(found: Mapping[str, Any], *, how: str = "greedy") -> dict[str, float]:
    """Mean accuracy over the families, for each mode."""
    families = [value for name, value in found.items() if name != "switches"]
    return {mode: sum(family[mode][how]["accuracy"]["value"] for family in families) / len(families) for mode in MODES}

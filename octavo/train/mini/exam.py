"""The suite's exam: held-out problems of every family, in both modes, greedy and sampled; and by thinking budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Split
from octavo.tasks import TASKS
from octavo.train.measure import Budgeted, Measured, by_budget, measure, problems_of
from octavo.train.own import OwnChat
from octavo.train.rollout import How

MODES: Mapping[str, Thinking] = {"thinking": Thinking(mode="on"), "direct": Thinking(mode="off")}
WAYS: Mapping[str, float] = {"greedy": 0, "sampled": 1}  # how, and at which temperature
BUDGETS = (0, 16, 32, 48, 64, 80, 112, 256)
PASSES = 16


class Exam:
    """What one model is asked.   count: problems of each family;   longest: tokens of a reply"""

    def __init__(self, own: OwnChat, *, count: int, longest: int, split: Split = "test") -> None:
        self.chat, self.count = own.refresh(), count
        self.split: Split = split
        samplings = {way: Sampling(temperature=heat, max_tokens=longest) for way, heat in WAYS.items()}
        self.ways = {way: How(sampling=sampling) for way, sampling in samplings.items()}

    def families(self, levels: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """family -> mode -> "greedy" and "sampled" -> figures; and of "switches" whether flags are followed."""
        found = dict[str, Any]()
        for name, some in levels.items():
            problems = problems_of(TASKS[name], some, count=self.count, split=self.split)
            found[name] = {"shows": TASKS[name].shows, **{mode: self._asked(problems, mode) for mode in MODES}}
        flagged = problems_of(TASKS["switches"], (1, 2, 3), count=self.count, split=self.split)
        flags = told(measure(self.chat, flagged, tasks=TASKS, how=self.ways["greedy"]))
        return {**found, "switches": {"shows": TASKS["switches"].shows, "flags": {"greedy": flags}}}

    def _asked(self, problems: Sequence[Problem], mode: str) -> dict[str, Any]:
        return {
            name: told(measure(self.chat, problems, tasks=TASKS, thinking=MODES[mode], how=how))
            for name, how in self.ways.items()
        }

    def passes(self, levels: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """family -> figures of PASSES replies to each of a quarter of the problems, thinking: pass@k."""
        how = How(replies=PASSES, sampling=self.ways["sampled"].sampling)
        found = dict[str, Any]()
        for name, some in levels.items():
            problems = problems_of(TASKS[name], some, count=max(1, self.count // 4), split=self.split)
            found[name] = told(measure(self.chat, problems, tasks=TASKS, thinking=MODES["thinking"], how=how))
        return found

    def budgets(self, levels: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """family -> budget -> figures, greedy, of problems that take some thinking: the upper half of the levels.

        The last budget is that of a whole reply.
        """
        found = dict[str, Any]()
        for name, some in levels.items():
            problems = problems_of(TASKS[name], list(some)[len(some) // 2 :], count=self.count, split=self.split)
            curve = by_budget(self.chat, problems, BUDGETS, tasks=TASKS, how=self.ways["greedy"])
            found[name] = {str(budget): told(measured) for budget, measured in curve.items()}
        return found


def told(measured: Measured | Budgeted) -> dict[str, Any]:
    """As plain JSON."""
    return msgspec.to_builtins(measured, str_keys=True)

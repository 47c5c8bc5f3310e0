"""Where a stage ends: by what it has brought, as the same few steps leave one model near nothing and another not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from octavo.core.sampling import Sampling, Thinking
from octavo.tasks import TASKS
from octavo.train.batch import Batch
from octavo.train.measure import measure, problems_of
from octavo.train.own import OwnChat
from octavo.train.rollout import How
from octavo.train.run import Run

ASKED = 40  # validation problems of each task
SUCCESS = "success"  # figure of a run's log


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """After a stage's own steps: while too little succeeds, rounds follow, over each of which the learning rate falls
    anew (`Schedule.again`)."""

    least: Annotated[float, Meta(ge=0, le=1, description="success that is enough; 0: its own steps are all")] = 0.0
    again: Annotated[int, Meta(ge=1, description="steps of a round")] = 10
    rounds: Annotated[int, Meta(ge=0, description="that may follow")] = 8

    def go(self, run: Run, batches: Callable[[int], Sequence[Batch]], *, steps: int,
           success: Callable[[], float], together: int = 1) -> None:  # fmt: skip
        """A run to its end.   steps   before success is measured;   success   0..1, kept in the run's log;   together
        as of `Run.go`"""

        def measured(step: int) -> dict[str, float]:
            ends = self.least > 0 and step >= steps and (step - steps) % self.again == 0
            return {SUCCESS: success()} if ends else {}

        def enough(step: int) -> bool:
            return self.least > 0 < step and run.told[-1].figures.get(SUCCESS, -1.0) >= self.least

        most = steps + self.again * self.rounds if self.least else steps
        run.go(batches, steps=most, until=enough, figures=measured, together=together)


def solved(own: OwnChat, tasks: Mapping[str, Sequence[int]], *, longest: int) -> float:
    """Share of validation problems, as many of each task, that are answered right with thinking, greedily."""
    posed = [
        problem
        for name, some in sorted(tasks.items())
        for problem in problems_of(TASKS[name], some, count=ASKED, split="validation")
    ]
    how = How(sampling=Sampling(temperature=0, max_tokens=longest))
    return measure(own.refresh(), posed, tasks=TASKS, thinking=Thinking(mode="on"), how=how,
                   ranks=own.whole.ranks).accuracy.value  # fmt: skip

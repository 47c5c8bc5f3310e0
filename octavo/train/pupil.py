"""A student and its teacher: what of the teacher's replies, and of its own, it learns from."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from msgspec.structs import replace

from octavo.chat.local import LocalChat
from octavo.core.errors import TrainingError
from octavo.core.sample import Sample
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Trajectory
from octavo.tasks import TASKS
from octavo.train.batch import Batch, batches_of
from octavo.train.lessons import problem_of
from octavo.train.measure import follows
from octavo.train.own import OwnChat
from octavo.train.ranks import Ranks
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.supervised import shuffled

Source = Callable[[int], list[Batch]]  # step -> what it learns from


@dataclass(frozen=True, kw_only=True, slots=True)
class Pupil:
    """Both models, as they are asked, and who learns together.

    tasks    task -> its levels;   longest   tokens of a reply;   tokens   of one forward pass
    thought  share of the problems that are asked with thinking, the others without
    """

    teacher: OwnChat
    student: OwnChat
    ranks: Ranks
    tasks: Mapping[str, list[int]]
    thought: float
    longest: int
    tokens: int
    seed: int

    def told(self, count: int, *, queries: int) -> Source:
        """Of so many of the teacher's replies those that are right, `queries` at a step, all once before any comes
        again. The teacher is asked before the first step; raises TrainingError where none is right."""

        @cache
        def samples() -> list[Sample]:
            done = self._replies(self.teacher.chat, random.Random(f"{self.seed} off"), count=count)
            if not (right := [to_sample(one) for one in done if good(self.teacher, one)]):
                raise TrainingError("the teacher gave no right reply: give it easier levels, or another teacher.")
            return right

        def batches(step: int) -> list[Batch]:
            chosen = shuffled(samples(), queries, step=step, seed=self.seed)
            return batches_of(self.ranks.share(chosen), tokens=self.tokens, device=self.ranks.device)

        return batches

    def tries(self, count: int, *, each: int, updates: int = 1) -> Source:
        """So many replies of the student at a step, `each` to a new problem; as it is at the first of `updates` steps,
        for all of which it replies at once, which takes less time."""
        parts = list[list[Batch]]()

        def batches(step: int) -> list[Batch]:
            number, part = divmod(step, updates)
            if part == 0:
                draw = random.Random(f"{self.seed} on {number}")
                done = self._replies(self.student.refresh(), draw, count=count * updates, each=each)
                groups = [done[start : start + each] for start in range(0, len(done), each)]
                parts[:] = [self._shared(groups[part::updates]) for part in range(updates)]
            return parts[part]

        return batches

    def _shared(self, groups: Sequence[Sequence[Trajectory]]) -> list[Batch]:
        samples = [to_sample(one) for group in self.ranks.share(groups) for one in group]
        return batches_of(samples, tokens=self.tokens, device=self.ranks.device, share=True)

    def _replies(self, chat: LocalChat, draw: random.Random, *, count: int, each: int = 1) -> list[Trajectory]:
        """To problems in both modes; every rank is given all."""
        how = How(replies=each, sampling=Sampling(max_tokens=self.longest), seed=self.seed)
        problems = [self._posed(draw) for _ in range(count // each)]
        return rollout(chat, problems, tasks=TASKS, how=how, ranks=self.ranks)

    def _posed(self, draw: random.Random) -> Problem:
        mode = "on" if draw.random() < self.thought else "off"
        return replace(problem_of(draw, self.tasks), thinking=Thinking(mode=mode))


def good(own: OwnChat, one: Trajectory) -> bool:
    """What rejection sampling keeps: right, ended, and in the mode that was asked for."""
    return one.score.value == 1 and not one.truncated and follows(own.chat, one)

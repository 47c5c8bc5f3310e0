"""What every task does: it makes problems, and it says how good a reply is. The same in evals and in RL."""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from octavo.core.errors import TaskError
from octavo.core.messages import Message, ToolCall
from octavo.core.task import Problem, Score, Split

SHARES: dict[Split, float] = {"test": 0.2, "validation": 0.1, "train": 0.7}
TRIES = 10_000


class Task(ABC):
    """One kind of problem with checkable answers.

    name        its key in `TASKS`;   levels   difficulties are 1 .. levels
    shows       what it is there to show: several steps of thought, a search, a control that thinking cannot help,
                a format to keep to, tools to call, what is not known, the mode that was asked for
    languages   its statements come in
    """

    name: str
    levels: int = 1
    shows: Literal["steps", "search", "control", "format", "tools", "knowledge", "modes"] = "steps"
    languages: tuple[str, ...] = ("en",)

    @abstractmethod
    def problem(self, seed: int, *, level: int = 1, split: Split = "train", language: str = "en") -> Problem:
        """Problem number `seed`: always the same one. Raises TaskError for a level, split or language it lacks."""

    @abstractmethod
    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """How good a reply is. It reads the answer and never the thinking; a reply without an answer gets 0.

        earlier   what came between the problem and the reply: calls of tools, and what these answered
        """

    def count(self, *, level: int = 1, split: Split = "train", language: str = "en") -> int | None:
        """How many different problems there are; None where they are made up without end."""
        return None

    def golden(self, problem: Problem) -> tuple[Message, ...]:
        """What comes before the gold reply, where it takes a call: the call, and the tool's answer."""
        return ()

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Replies that must score 0, at least one: `validate` checks that they do."""
        return (Message(role="assistant", content=""),)

    def call(self, problem: Problem, call: ToolCall) -> str:
        """What a tool answers. Raises TaskError where the task has no such tool."""
        raise TaskError(f"{self.name} has no tool {call.name}.")

    def validate(self, *, count: int = 50) -> None:
        """Raise TaskError unless gold replies score 1 and wrong ones 0, in `count` problems of each level and split."""
        for problem in self._some(count):
            found = self.score(problem, problem.gold, self.golden(problem))
            if found.value != 1:
                raise TaskError(f"{self.name} {problem.id}: the gold reply scores {found.value}: {found.why}")
            for reply in self.wrong(problem):
                found = self.score(problem, reply)
                if found.value != 0:
                    raise TaskError(f"{self.name} {problem.id}: {reply} is wrong but scores {found.value}: {found.why}")

    def _some(self, count: int) -> Iterator[Problem]:
        for level in range(1, self.levels + 1):
            for split in SHARES:
                for language in self.languages:
                    for seed in range(count):
                        yield self.problem(seed, level=level, split=split, language=language)


def split_of(key: str) -> Split:
    """The one split that a problem belongs to, by what it is: so no problem can be in two, however it is worded."""
    place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


class Procedural(Task):
    """A task that makes its problems up: subclasses draw an instance and put it into words."""

    @abstractmethod
    def draw(self, draw: random.Random, level: int) -> Any:
        """An instance: plain data whose `repr` says all of it but the wording."""

    def essence(self, instance: Any) -> Any:
        """What is left of an instance when all that does not matter, as the order of hints, is made the same."""
        return instance

    @abstractmethod
    def pose(self, instance: Any, draw: random.Random, *, id: str, key: str, level: int, language: str) -> Problem:
        """An instance in words, one wording of several."""

    def problem(self, seed: int, *, level: int = 1, split: Split = "train", language: str = "en") -> Problem:
        """Instances are drawn until one belongs to the split."""
        if not 1 <= level <= self.levels:
            raise TaskError(f"{self.name} has levels 1 to {self.levels}, not {level}.")
        if language not in self.languages:
            raise TaskError(f"{self.name} comes in {', '.join(self.languages)}, not in {language}.")
        draw = random.Random(f"{self.name} {level} {split} {seed}")
        for _ in range(TRIES):
            instance = self.draw(draw, level)
            key = key_of(self, instance)
            if split_of(key) == split:
                words = random.Random(f"{self.name} {level} {split} {seed} {language}")
                id = f"{split}-{level}-{seed}-{language}"
                return self.pose(instance, words, id=id, key=key, level=level, language=language)
        raise TaskError(f"{self.name} level {level} has no problem in the split {split}: too few instances there.")


def key_of(task: Procedural, instance: Any) -> str:
    """What an instance asks for, whatever its wording."""
    return f"{task.name} {task.essence(instance)!r}"

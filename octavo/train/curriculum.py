"""Which problems come next: those that are solved sometimes. Success is measured where it happens, in the rollouts."""

import random
from collections.abc import Mapping, Sequence

Level = tuple[str, int]  # a task's name and a level of it

KNOWN = "solved "  # how the figures of a level begin in a log
MEMORY = 0.7  # weight of what was known of a level beside the newest step
STRAY = 0.35  # chance of any level: what is too hard may become easier, what is solved is forgotten unasked
LOW = 0.1


class Curriculum:
    """Chances of tasks' levels. Its state is a function of the figures of all steps so far, so a log restores it.

    solved   level -> success, 0..1, a moving average; a level that it lacks was never asked
    """

    def __init__(self, levels: Mapping[str, Sequence[int]], *, known: float = 0.9) -> None:
        """known   success from which on a level comes by chance only"""
        self.levels: list[Level] = [(task, level) for task in sorted(levels) for level in levels[task]]
        self.known, self.solved, self.steps = known, dict[Level, float](), 0

    def follow(self, log: Sequence[Mapping[str, float]]) -> None:
        """The figures of all steps so far; those that are new are learnt from."""
        for figures in log[self.steps :]:
            for level in self.levels:
                if (value := figures.get(figure(level))) is not None:
                    before = self.solved.get(level, value)
                    self.solved[level] = MEMORY * before + (1 - MEMORY) * value
        self.steps = len(log)

    def choose(self, draw: random.Random, count: int) -> list[Level]:
        """Levels for `count` problems, mixed: a step of one difficulty learns lucky guesses."""
        fitting = [level for level in self.levels if LOW <= self.solved.get(level, 0.5) <= self.known]
        return [draw.choice(fitting if fitting and draw.random() >= STRAY else self.levels) for _ in range(count)]

    @property
    def success(self) -> float:
        """Mean over all levels; those never asked count 0."""
        return sum(self.solved.get(level, 0.0) for level in self.levels) / len(self.levels)


def figure(level: Level) -> str:
    """What a level's success is called in a log."""
    return f"{KNOWN}{level[0]} {level[1]}"

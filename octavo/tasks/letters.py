"""Rows of letters, changed step after step: turned round, swapped, rotated, shortened, lengthened.

What it shows: a state of several parts that has to be kept through several changes.
"""

import random
from collections.abc import Callable

from octavo.tasks.worked import Worked

Row = tuple[str, ...]
LETTERS = "abcdefgh"
CHANGES: dict[str, Callable[[Row], Row]] = {
    "reverse": lambda row: row[::-1],
    "swap ends": lambda row: (row[-1], *row[1:-1], row[0]),
    "first to end": lambda row: (*row[1:], row[0]),
    "last to front": lambda row: (row[-1], *row[:-1]),
    "drop first": lambda row: row[1:],
    "double last": lambda row: (*row, row[-1]),
}
MOST = 7  # letters of a row


class Letters(Worked):
    """Level n: n + 1 changes of 4 letters."""

    name, levels = "letters", 6

    def draw(self, draw: random.Random, level: int) -> tuple[Row, tuple[str, ...]]:
        """Changes that leave 3 to 7 letters."""
        row = tuple(draw.sample(LETTERS, 4))
        at, names = row, list[str]()
        while len(names) < level + 1:
            name = draw.choice(sorted(CHANGES))
            if 3 <= len(CHANGES[name](at)) <= MOST:
                names.append(name)
                at = CHANGES[name](at)
        return row, tuple(names)

    def wordings(self, instance: tuple[Row, tuple[str, ...]], language: str) -> list[str]:
        """The row, then what to do with it, in order."""
        row, names = " ".join(instance[0]), ", ".join(instance[1])
        return [f"{row}: {names}", f"Take {row}. Then {names}.", f"Do {names} to {row}"]

    def solve(self, instance: tuple[Row, tuple[str, ...]], language: str) -> tuple[str, str]:
        """Each change, and the row after it."""
        row, lines = instance[0], list[str]()
        for name in instance[1]:
            row = CHANGES[name](row)
            lines.append(f"{name}: {' '.join(row)}")
        return "\n".join(lines), " ".join(row)

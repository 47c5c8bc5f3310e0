"""Numbers to put in order: all of them, or the one at a certain place.

What it shows: many comparisons, which are easy one at a time.
"""

import random

from octavo.tasks.worked import Worked

Asked = tuple[tuple[int, ...], int]  # numbers; place from the smallest, from 1; 0: all of them in order


class Sorting(Worked):
    """Level n: n + 3 numbers with two digits."""

    name, levels = "sorting", 5

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Different numbers."""
        numbers = tuple(draw.sample(range(10, 100), level + 3))
        return numbers, draw.choice([0, draw.randint(2, len(numbers) - 1)])

    def essence(self, instance: Asked) -> Asked:
        """The order that the numbers come in does not matter."""
        return tuple(sorted(instance[0])), instance[1]

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """From the smallest on."""
        numbers, place = " ".join(map(str, instance[0])), instance[1]
        if place:
            return [f"{numbers}: number {place} in order?", f"Number {place} from the smallest of {numbers}?"]
        return [f"Sort {numbers}", f"{numbers} in order?", f"Put in order: {numbers}"]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Each number is put among those before it."""
        numbers, place = instance
        row, lines = list[int](), list[str]()
        for value in numbers:
            row = sorted([*row, value])
            lines.append(f"{value}: {' '.join(map(str, row))}")
        return "\n".join(lines), str(row[place - 1]) if place else " ".join(map(str, row))

    def near(self, answer: str) -> list[str]:
        """One swapped, one missing."""
        row = answer.split()
        return (
            [" ".join([*row[1:], row[0]]), " ".join(row[:-1]), answer + " 9"]
            if len(row) > 1
            else [str(int(answer) + 1)]
        )

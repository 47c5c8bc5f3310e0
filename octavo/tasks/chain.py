"""Chains of sums modulo a number: as many steps as signs, each of which needs the one before.

What it shows: a model of few layers cannot take many steps in one pass, and can in writing.
"""

import random

from octavo.tasks.worked import Worked

Chain = tuple[int, tuple[tuple[str, int], ...], int]  # first number; sign and number of each step; modulus


class Chains(Worked):
    """Levels 1 to 8: 2 to 9 steps modulo 10; levels 9 and 10: 3 and 6 steps of plus and minus modulo 97."""

    name, levels = "chain", 10

    def draw(self, draw: random.Random, level: int) -> Chain:
        """Numbers and signs at random."""
        if level > 8:
            steps = tuple((draw.choice("+-"), draw.randrange(10, 97)) for _ in range(3 * (level - 8)))
            return draw.randrange(97), steps, 97
        return draw.randrange(10), tuple((draw.choice("+-*"), draw.randrange(1, 10)) for _ in range(level + 1)), 10

    def wordings(self, instance: Chain, language: str) -> list[str]:
        """Always with the order, which is not the usual one."""
        first, steps, modulus = instance
        sum = f"{first}{''.join(f'{sign}{by}' for sign, by in steps)}"
        return [f"{sum} left to right mod {modulus}", f"Left to right, mod {modulus}: {sum}",
                f"What is {sum} mod {modulus}, left to right?"]  # fmt: skip

    def solve(self, instance: Chain, language: str) -> tuple[str, str]:
        """Each step with its result."""
        at, steps, modulus = instance
        lines = list[str]()
        for sign, by in steps:
            result = {"+": at + by, "-": at - by, "*": at * by}[sign]
            carried = (
                "" if 0 <= result < modulus or modulus == 10 else f"{result}{'+' if result < 0 else '-'}{modulus}="
            )
            lines.append(f"{at}{sign}{by}={carried}{result % modulus}")
            at = result % modulus
        return "\n".join(lines), str(at)

"""Sums, differences and products of numbers with several digits, column by column as in school.

What it shows: carries run through all columns; written down, each column is a small sum.
"""

import random

from octavo.tasks.worked import Worked

Sum = tuple[str, int, int]
LEVELS: dict[int, tuple[tuple[str, int, int], ...]] = {  # sign, digits of both numbers
    1: (("+", 2, 2), ("-", 2, 2)), 2: (("+", 3, 3), ("-", 3, 3)), 3: (("+", 4, 4), ("-", 4, 4), ("*", 2, 1)),
    4: (("+", 5, 5), ("-", 5, 5), ("*", 3, 1)), 5: (("*", 4, 1), ("*", 2, 2)), 6: (("*", 3, 2),),
}  # fmt: skip


class Arithmetic(Worked):
    """Level 1: two digits; up to level 4 plus and minus with five; from level 3 on products, up to 3 by 2 digits."""

    name, levels = "arithmetic", 6

    def draw(self, draw: random.Random, level: int) -> Sum:
        """Both numbers at random; of a difference, the larger one first."""
        sign, wide, narrow = draw.choice(LEVELS[level])
        a, b = draw.randrange(10 ** (wide - 1), 10**wide), draw.randrange(max(2, 10 ** (narrow - 1)), 10**narrow)
        return (sign, max(a, b), min(a, b)) if sign == "-" else (sign, a, b)

    def essence(self, instance: Sum) -> Sum:
        """The order of two summands or factors does not matter."""
        sign, a, b = instance
        return sign, max(a, b), min(a, b)

    def wordings(self, instance: Sum, language: str) -> list[str]:
        """As a sum, as a question."""
        sign, a, b = instance
        return [f"{a}{sign}{b}=?", f"What is {a}{sign}{b}?", f"Compute {a}{sign}{b}."]

    def solve(self, instance: Sum, language: str) -> tuple[str, str]:
        """Columns from the right: a carry is what stands left of a column's last digit."""
        sign, a, b = instance
        if sign == "+":
            return "\n".join(added(a, b)), str(a + b)
        if sign == "-":
            return "\n".join(taken(a, b)), str(a - b)
        return "\n".join(product(a, b)), str(a * b)


def product(a: int, b: int) -> list[str]:
    """Products with each digit of b, each of them added to those before it."""
    lines, total = list[str](), 0
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        lines += [f"{a}*{digit}{'0' * place}", *multiplied(a, int(digit)), f"={part}"]
        if place:
            lines += [f"{total}+{part}", *added(total, part), f"={total + part}"]
        total += part
    return lines


def added(a: int, b: int) -> list[str]:
    """Columns of a sum: digit + digit + carry."""
    lines, carry = list[str](), 0
    for place in range(max(len(str(a)), len(str(b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        lines.append(f"{x}+{y}+{carry}={x + y + carry}")
        carry = (x + y + carry) // 10
    return lines


def taken(a: int, b: int) -> list[str]:
    """Columns of a difference a - b, a >= b: a digit that is too small is given ten, which the next column pays."""
    lines, owed = list[str](), 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        lent = x - y - owed < 0
        lines.append(f"{x + 10 * lent}-{y}-{owed}={x + 10 * lent - y - owed}")
        owed = int(lent)
    return lines


def multiplied(a: int, digit: int) -> list[str]:
    """Columns of a product with one digit: digit * digit + carry."""
    lines, carry = list[str](), 0
    for x in map(int, reversed(str(a))):
        lines.append(f"{x}*{digit}+{carry}={x * digit + carry}")
        carry = (x * digit + carry) // 10
    return lines

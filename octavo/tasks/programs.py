"""Small programs to run in the head: variables, conditions, loops.

What it shows: several variables, each of which may change at any line.
"""

import random
from typing import Any

from octavo.tasks.worked import Worked

NAMES = "abcd"
HIGHEST = 40


class Programs(Worked):
    """Level n: n + 1 lines that change something; conditions from level 2, loops from level 4."""

    name, levels = "programs", 6

    def draw(self, draw: random.Random, level: int) -> tuple[Any, ...]:
        """Two variables (three from level 3), lines whose results stay from 0 to 40, and which one is asked for."""
        names = NAMES[: 2 if level < 3 else 3]
        values = {name: draw.randrange(1, 10) for name in names}
        start, lines = tuple(values.items()), list[tuple[str, ...]]()
        while len(lines) < level + 1:
            line = _line(draw, names, level)
            after = dict(values)
            _run(line, after)
            if after != values and min(after.values()) >= 0 and max(after.values()) <= HIGHEST:
                values = after
                lines.append(line)
            elif line[0] == "if" and after == values and draw.random() < 0.3:  # a condition that does not hold
                lines.append(line)
        return start, tuple(lines), draw.choice(names)

    def wordings(self, instance: tuple[Any, ...], language: str) -> list[str]:
        """The program, one statement a line."""
        start, lines, asked = instance
        text = "\n".join([*(f"{name}={value}" for name, value in start), *map(_text, lines)])
        return [f"{text}\nprint({asked})", f"Run:\n{text}\n{asked}=?", f"{text}\nWhat is {asked}?"]

    def solve(self, instance: tuple[Any, ...], language: str) -> tuple[str, str]:
        """Each line as it stands, then with values in the place of names, and all values after it; what was asked."""
        start, lines, asked = instance
        values, shown = dict(start), list[str]()
        for line in lines:
            done = " ".join(_run(line, values))
            shown.append(f"{_text(line)}: {done}, {' '.join(f'{name}={value}' for name, value in values.items())}")
        return "\n".join([*shown, f"{asked}={values[asked]}"]), str(values[asked])


def _line(draw: random.Random, names: str, level: int) -> tuple[str, ...]:
    target, other = draw.sample(names, 2)
    small = str(draw.randrange(1, 6))
    left, right = draw.choice([(target, other), (target, small), (target, small), (other, small)])
    change = (target, left, draw.choice("+-"), right)
    kind = draw.random()
    if level >= 4 and kind < 0.2:
        return ("for", str(draw.randint(2, 3)), target, target, draw.choice("+-"), str(draw.randrange(1, 4)))
    if level >= 2 and kind < 0.45:
        return ("if", draw.choice(names), draw.choice("<>"), str(draw.randrange(1, 15)), *change)
    return ("do", *change)


def _text(line: tuple[str, ...]) -> str:
    kind, *rest = line
    target, left, sign, right = rest[-4:]
    change = f"{target}={left}{sign}{right}"
    if kind == "if":
        return f"if {rest[0]}{rest[1]}{rest[2]}: {change}"
    return f"repeat {rest[0]}: {change}" if kind == "for" else change


def _run(line: tuple[str, ...], values: dict[str, int]) -> list[str]:
    """Changes `values` as the line says; what happened."""
    kind, *rest = line
    if kind == "if":
        name, sign, bound = rest[:3]
        holds = values[name] < int(bound) if sign == "<" else values[name] > int(bound)
        shown = f"{values[name]}{sign}{bound} {'yes' if holds else 'no'}"
        return [shown, _change(rest[3:], values)] if holds else [shown]
    return [_change(rest[-4:], values) for _ in range(int(rest[0]) if kind == "for" else 1)]


def _change(change: list[str], values: dict[str, int]) -> str:
    target, left, sign, right = change
    x, y = values[left], values[right] if right in values else int(right)
    values[target] = x + y if sign == "+" else x - y
    return f"{x}{sign}{y}={values[target]}"

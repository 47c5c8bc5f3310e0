"""Questions about values that are given, or are not: then the right answer is "unknown".

What it shows: that a model says so where it cannot know, instead of making something up.
"""

import random

from octavo.tasks.worked import Worked

NAMES = "abcdefgh"
UNKNOWN = "unknown"

Asked = tuple[tuple[tuple[str, str, int], ...], str]  # name, name it stands on ("" for none), number; who is asked for


class Unanswerable(Worked):
    """Level n: up to n + 1 values that stand on each other; one in two of what is asked for stands on nothing."""

    name, levels, shows = "unanswerable", 5, "knowledge"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """A chain of definitions whose first is a number, or a name that nobody defines."""
        names = draw.sample(NAMES, level + 3)
        defined = [(names[0], draw.choice(("", names[-1])), draw.randrange(1, 10))]
        for i in range(1, level + 1):
            defined.append((names[i], names[i - 1], draw.randrange(1, 10)))
        asked = names[level]
        defined.append((names[level + 1], "", draw.randrange(1, 10)))
        draw.shuffle(defined)
        return tuple(defined), asked

    def essence(self, instance: Asked) -> Asked:
        """The order of the definitions does not matter."""
        return tuple(sorted(instance[0])), instance[1]

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Definitions in any order."""
        said = ", ".join(f"{name}={on}+{number}" if on else f"{name}={number}" for name, on, number in instance[0])
        return [f"{said}. {instance[1]}?", f"Given {said}, what is {instance[1]}?", f"{said}. Find {instance[1]}."]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Down to what all stands on, then up again."""
        defined = {name: (on, number) for name, on, number in instance[0]}
        way, lines = [instance[1]], list[str]()
        while way[-1] in defined and defined[way[-1]][0]:
            on, number = defined[way[-1]]
            lines.append(f"{way[-1]}={on}+{number}")
            way.append(on)
        if way[-1] not in defined:
            return "\n".join([*lines, f"{way[-1]} {UNKNOWN}"]), UNKNOWN
        value = defined[way[-1]][1]
        lines.append(f"{way[-1]}={value}")
        for name in way[-2::-1]:
            by = defined[name][1]
            lines.append(f"{name}={value}+{by}={value + by}")
            value += by
        return "\n".join(lines), str(value)

    def near(self, answer: str) -> list[str]:
        """A number where there is none, none where there is one."""
        return ["7", "0", "known"] if answer == UNKNOWN else [UNKNOWN, *super().near(answer)]

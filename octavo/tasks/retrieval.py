"""A list of things to look something up in.

What it shows: nothing that thinking could add: the answer stands in the text. It is the control.
"""

import random

from octavo.tasks.worked import Worked

NAMES = ("Mia", "Tom", "Ana", "Ben", "Kai", "Eva", "Leo", "Zoe", "Ida", "Max", "Uma", "Rex")
THINGS = ("boat", "book", "lamp", "cup", "ball", "key", "hat", "map")

Asked = tuple[tuple[tuple[str, str], ...], int]  # name and thing, which of them


class Retrieval(Worked):
    """Level n: 2 n + 1 names, each with a thing."""

    name, levels, shows = "retrieval", 5, "control"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Different names."""
        names = draw.sample(NAMES, 2 * level + 1)
        return tuple((name, draw.choice(THINGS)) for name in names), draw.randrange(len(names))

    def essence(self, instance: Asked) -> tuple[tuple[tuple[str, str], ...], str]:
        """The order of the list does not matter."""
        return tuple(sorted(instance[0])), instance[0][instance[1]][0]

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """The list, a line each, then a question; or the question first. A name stands right before its thing."""
        listed, who = "\n".join(f"{name} {thing}" for name, thing in instance[0]), instance[0][instance[1]][0]
        return [f"{listed}\nWhat has {who}?", f"{listed}\n{who}?", f"Look up {who}:\n{listed}"]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """The line that it is in."""
        name, thing = instance[0][instance[1]]
        return f"{name} {thing}", thing

    def near(self, answer: str) -> list[str]:
        """Other things."""
        return [thing for thing in THINGS if thing != answer][:3]

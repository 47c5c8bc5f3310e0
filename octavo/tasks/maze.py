"""Mazes: a way from one room to another through doors.

What it shows: a search with dead ends; a longer thinking gets out of more of them.
"""

import random
import re
from collections.abc import Sequence

from octavo.core.messages import Message
from octavo.core.task import Problem, Score
from octavo.tasks.verify.answers import final_answer
from octavo.tasks.worked import Worked

ROOMS = "abcdefghijkl"

Asked = tuple[tuple[tuple[str, str], ...], str, str]  # doors, from, to


class Maze(Worked):
    """Level n: n + 4 rooms in a tree of doors; one way leads to the goal."""

    name, levels, shows = "maze", 6, "search"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """A random tree, its doors in random order, start and goal at least two doors apart."""
        rooms = draw.sample(ROOMS, level + 4)
        doors = [tuple(draw.sample((room, draw.choice(rooms[:i])), 2)) for i, room in enumerate(rooms) if i]
        draw.shuffle(doors)
        start = draw.choice(rooms)
        while not (goals := [way[-1] for way in _ways(doors, start) if len(way) > 2]):
            start = draw.choice(rooms)
        return tuple((x, y) for x, y in doors), start, draw.choice(goals)

    def essence(self, instance: Asked) -> Asked:
        """The order of the doors, and the side that they are named from, do not matter."""
        doors, start, goal = instance
        return tuple(sorted((min(door), max(door)) for door in doors)), start, goal

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Doors, then from where to where."""
        doors = " ".join(f"{x}-{y}" for x, y in instance[0])
        return [f"{doors}: {instance[1]} to {instance[2]}?", f"Doors {doors}. Way from {instance[1]} to {instance[2]}?"]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Each room with the ways that lead on; `x` goes back to the last room with one left."""
        doors, start, goal = instance
        lines, stack, seen = list[str](), [[start]], {start}
        while stack:
            way = stack.pop()
            here = way[-1]
            if here == goal:
                lines.append(" ".join(way))
                return "\n".join(lines), " ".join(way)
            on = sorted(n for door in doors for n in _through(door, here) if n not in seen)
            seen.update(on)
            lines.append(f"{' '.join(way)}: {' '.join(on) or 'x'}")
            stack += [[*way, room] for room in reversed(on)]
        raise AssertionError("a tree has a way between any two rooms")

    def near(self, answer: str) -> list[str]:
        """A room left out, the way back, a way that stops."""
        way = answer.split()
        return [" ".join([way[0], *way[2:]]), " ".join(way[::-1]), " ".join(way[:-1]), answer + " " + way[0]]

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 for the way; arrows, dashes or commas may stand between the rooms, and their case does not matter."""
        said = final_answer(reply.text)
        plain = None if said is None else " ".join(re.sub(r"->|[-→–—,]", " ", said).casefold().split())
        right = plain == problem.answer
        return Score(value=float(right), answer=plain, why="right" if right else f"not {problem.answer}")


def _through(door: tuple[str, ...], room: str) -> list[str]:
    return [door[1 - i] for i in (0, 1) if door[i] == room]


def _ways(doors: list[tuple[str, ...]], start: str) -> list[list[str]]:
    """The ways from one room of a tree to each, the shortest first."""
    ways = [[start]]
    for way in ways:
        ways += [[*way, n] for door in doors for n in _through(door, way[-1]) if n not in way]
    return ways

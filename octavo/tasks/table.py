"""Small tables to look things up in, and to count, add and compare what is found.

What it shows: picking the right rows, then doing something with all of them.
"""

import random

from octavo.tasks.worked import Worked

PEOPLE = ("Mia", "Tom", "Ana", "Ben", "Kai", "Eva", "Leo", "Zoe")
PLACES = ("Rome", "Oslo", "Lima")
KINDS = ("sum", "count", "most", "total")

Asked = tuple[tuple[tuple[str, str, int], ...], str, str]  # rows of name, place, points; kind; place


class Table(Worked):
    """Level n: n + 2 rows."""

    name, levels = "table", 5

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Points are different, and the place that is asked for is there."""
        names, points = draw.sample(PEOPLE, level + 2), draw.sample(range(1, 20), level + 2)
        rows = tuple((name, draw.choice(PLACES), many) for name, many in zip(names, points, strict=True))
        return rows, draw.choice(KINDS), draw.choice(rows)[1]

    def essence(self, instance: Asked) -> Asked:
        """The order of the rows does not matter, nor does a place where all are asked for."""
        rows, kind, place = instance
        return tuple(sorted(rows)), kind, "" if kind == "total" else place

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """One row a line, then the question."""
        rows, kind, place = instance
        text = "\n".join(f"{name} {where} {many}" for name, where, many in rows)
        asked = {
            "sum": (f"Points in {place}?", f"Sum of {place}?"), "count": (f"How many in {place}?", f"Count {place}."),
            "most": (f"Who has most in {place}?", f"Best of {place}?"), "total": ("Sum of all?", "All points?"),
        }[kind]  # fmt: skip
        return [f"{text}\n{question}" for question in asked]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Every row in turn: whether it counts, and what comes of it so far."""
        rows, kind, place = instance
        lines, total, best = list[str](), 0, ("", 0)
        for name, where, many in rows:
            if kind != "total" and where != place:
                lines.append(f"{name} {where} no")
            elif kind == "most":
                best = max(best, (name, many), key=lambda one: one[1])
                lines.append(f"{name} {where} {many}: {best[0]} {best[1]}")
            else:
                by = 1 if kind == "count" else many
                lines.append(f"{name} {where} {total}+{by}={total + by}")
                total += by
        return "\n".join(lines), best[0] if kind == "most" else str(total)

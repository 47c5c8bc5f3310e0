"""MATH-500: competition problems with answers in LaTeX, in the data's own five levels.

What it shows: long reasoning; its answers are compared as mathematics, not letter by letter. Sources: Hendrycks et al.
2021, arXiv:2103.03874; the 500: Lightman et al. 2023, arXiv:2305.20050.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.core.strict import decode
from octavo.core.task import Problem, Score, Split
from octavo.tasks.recorded import Recorded, replies
from octavo.tasks.verify.maths import REQUEST, Maths, in_box, maths_answer


class Row(Struct):
    """What is used of a line of the data."""

    problem: str
    answer: str
    level: int


class Math500(Recorded):
    """All of it is the split "test", so it comes without traces."""

    name, levels = "math500", 5
    source = (
        "HuggingFaceH4/MATH-500 (problems of hendrycks/math chosen by openai/prm800k), test.jsonl, in a folder math500"
    )

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._maths = Maths()

    def read(self, split: Split, language: str) -> Sequence[tuple[int, Any]]:
        """In the order of the file."""
        name = "math500/test.jsonl"
        rows = [decode(line, Row, what=name, error=TaskError) for line in self.lines(name)]
        return [(row.level, row) for row in rows]

    def pose(self, row: Any, *, id: str, level: int, language: str) -> Problem:
        """With the request to put the answer into a box."""
        return Problem(
            task=self.name, id=id, key=f"math500 {row.problem}", answer=row.answer, level=level,
            messages=(Message(role="user", content=f"{row.problem}\n{REQUEST[language]}"),),
            gold=Message(role="assistant", content=in_box(row.answer)),
        )  # fmt: skip

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where the answer, in a box or after "answer is", is the same as mathematics."""
        said = maths_answer(reply.text)
        if said is None:
            return Score(value=0.0, answer=None, why="there is no answer")
        right = self._maths.same(said, problem.answer)
        why = "right" if right else "it could not be compared in time" if right is None else f"not {problem.answer}"
        return Score(value=float(right or False), answer=said, why=why)

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """No answer, others, two at once."""
        answer = problem.answer
        return replies("", in_box(f"{answer}+1"), in_box("731/977"), in_box(f"{answer} or 977"), in_box(""))

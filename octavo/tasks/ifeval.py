"""IFEval: instructions on the form of a text, checked by rule.

What it shows: that a model does as it is told. Source: Zhou et al. 2023, arXiv:2311.07911.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.core.strict import decode
from octavo.core.task import Problem, Score, Split
from octavo.tasks.obedient import SPOIL, obedient
from octavo.tasks.recorded import Recorded, replies
from octavo.tasks.verify.formats import CHECKS, follows, loosely


class Row(Struct):
    """A line of the data."""

    key: int
    prompt: str
    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


class IFEval(Recorded):
    """Level n: prompts with n instructions.

    The data has no answers. Gold replies are made up: they do as they are told and say nothing. Where that cannot be
    done without writing in another language, or instructions get in each other's way, the gold reply is empty, and
    `validate` leaves the problem out.
    """

    name, levels, shows = "ifeval", 3, "format"
    source = "google-research/instruction_following_eval, input_data.jsonl, in a folder ifeval"

    def read(self, split: Split, language: str) -> Sequence[tuple[int, Any]]:
        """In the order of the file."""
        name = "ifeval/input_data.jsonl"
        rows = [decode(line, Row, what=name, error=TaskError) for line in self.lines(name)]
        for row in rows:
            unknown = set(row.instruction_id_list) - CHECKS.keys()
            if unknown or not 1 <= len(row.kwargs) == len(row.instruction_id_list) <= self.levels:
                raise TaskError(f"{name}: row {row.key} asks for what is not understood: {unknown or 'their number'}.")
        return [(len(row.kwargs), row) for row in rows]

    def pose(self, row: Any, *, id: str, level: int, language: str) -> Problem:
        """The prompt as it is."""
        asked: list[dict[str, Any]] = [
            {"kind": kind, "given": {name: value for name, value in given.items() if value is not None}}
            for kind, given in zip(row.instruction_id_list, row.kwargs, strict=True)
        ]
        return Problem(
            task=self.name, id=id, key=f"ifeval {row.key}", answer=asked, level=level,
            messages=(Message(role="user", content=row.prompt),),
            gold=Message(role="assistant", content=obedient([(each["kind"], each["given"]) for each in asked])),
        )  # fmt: skip

    def followed(self, problem: Problem, reply: Message, *, loose: bool = False) -> list[bool]:
        """Of each instruction, whether the reply keeps to it. Their mean over all problems is the paper's accuracy by
        instructions; how often all are kept, that by prompts.

        loose   also count what would be kept without first line, last line or asterisks
        """  # fmt: skip
        texts = loosely(reply.text) if loose else [reply.text]
        return [any(follows(text, each["kind"], each["given"]) for text in texts) for each in problem.answer]

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where all instructions are kept, strictly."""
        found = self.followed(problem, reply)
        broken = [each["kind"] for each, good in zip(problem.answer, found, strict=True) if not good]
        why = f"not kept: {', '.join(broken)}" if broken else "all kept"
        return Score(value=float(not broken), answer=f"{sum(found)} of {len(found)}" if reply.text else None, why=why)

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Nothing; and the gold reply, spoilt."""
        spoil = SPOIL.get(problem.answer[0]["kind"])
        return replies("", *([] if spoil is None else [spoil(problem.gold.text)]))

    def _some(self, count: int) -> Iterator[Problem]:
        return (problem for problem in super()._some(count) if problem.gold.text)

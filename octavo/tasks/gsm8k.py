"""Word problems of primary school: GSM8K, and MGSM, its first 250 test problems in other languages too.

What they show: several steps of reasoning in everyday words. Sources: Cobbe et al. 2021, arXiv:2110.14168; Shi et al.
2022, arXiv:2210.03057.
"""

import re
from collections.abc import Sequence
from typing import Any

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.core.strict import decode
from octavo.core.task import Problem, Score, Split
from octavo.tasks.base import split_of
from octavo.tasks.recorded import Recorded, replies
from octavo.tasks.verify.maths import REQUEST, SOLVED, exact, in_box, number_answer


class Numbered(Recorded):
    """Problems whose answer is one number."""

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where the reply's number is right: in a box, else after "answer is", else the last one in the text."""
        said = number_answer(reply.text, problem.id.rsplit("-", 1)[-1])
        if said is None:
            return Score(value=0.0, answer=None, why="there is no answer that is one number")
        right = said == exact(problem.answer)
        return Score(value=float(right), answer=str(said), why="right" if right else f"not {problem.answer}")

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """No answer, other numbers, two numbers."""
        answer = problem.answer.replace(",", "")
        near = str(int(answer) + 1)
        return replies("", in_box(near), in_box(f"{answer}1"), in_box(f"{answer} or {near}"), f"{answer}\n{near}")

    def asked(self, question: str, *, answer: str, trace: str, place: tuple[str, str, str]) -> Problem:
        """A question with what it takes to ask it.   place   key, id, language"""
        key, id, language = place
        return Problem(
            task=self.name, id=id, key=key, answer=answer, trace=trace,
            messages=(Message(role="user", content=f"{question}\n{REQUEST[language]}"),),
            gold=Message(role="assistant", content=in_box(answer)),
        )  # fmt: skip


class GSM8K(Numbered):
    """The test file is the split "test". The training file is "train" and, a tenth of it by its words, "validation"."""

    name, splits = "gsm8k", ("train", "validation", "test")
    source = "openai/grade-school-math, train.jsonl and test.jsonl, in a folder gsm8k"

    def read(self, split: Split, language: str) -> Sequence[tuple[int, Any]]:
        """Question and answer."""
        name = f"gsm8k/{'test' if split == 'test' else 'train'}.jsonl"
        rows = [decode(line, dict[str, str], what=name, error=TaskError) for line in self.lines(name)]
        held_out = {row["question"]: split_of(row["question"]) == "validation" for row in rows}
        return [(1, row) for row in rows if split == "test" or held_out[row["question"]] == (split == "validation")]

    def pose(self, row: Any, *, id: str, level: int, language: str) -> Problem:
        """The data's own solution is the trace, without the marks for a calculator."""
        match = SOLVED.fullmatch(row["answer"])
        if match is None:
            raise TaskError(f"gsm8k {id}: its solution does not end with a number. Download the data again.")
        trace = re.sub(r"<<[^<>]*>>", "", match[1]).strip()
        return self.asked(
            row["question"], answer=match[2], trace=trace, place=(f"gsm8k {row['question']}", id, language)
        )


class MGSM(Numbered):
    """GSM8K in several languages; without traces."""

    name, languages = "mgsm", ("en", "ja", "zh", "de", "fr")
    source = "google-research/url-nlp, mgsm_*.tsv, in a folder mgsm"

    def read(self, split: Split, language: str) -> Sequence[tuple[int, Any]]:
        """Place in the file, question and answer."""
        name = f"mgsm/mgsm_{language}.tsv"
        rows = [(place, line.split("\t")) for place, line in enumerate(self.lines(name))]
        broken = next((place for place, row in rows if len(row) != 2), None)
        if broken is not None:
            raise TaskError(f"{name}: line {broken + 1} is not a question, a tab and an answer. Download it again.")
        return [(1, (place, *row)) for place, row in rows]

    def pose(self, row: Any, *, id: str, level: int, language: str) -> Problem:
        """The same place is the same problem in all languages."""
        place, question, answer = row
        return self.asked(question, answer=answer.strip(), trace="", place=(f"mgsm {place}", id, language))

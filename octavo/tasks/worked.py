"""Tasks whose answers are one short text, reached step by step: subclasses draw, word and solve."""

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from octavo.core.messages import Message
from octavo.core.task import Problem, Score
from octavo.tasks.base import Procedural
from octavo.tasks.verify.answers import final_answer, number, same


class Worked(Procedural):
    """A procedural task with one answer. A thinking writes the state down after each step; the answer stands alone."""

    @abstractmethod
    def wordings(self, instance: Any, language: str) -> Sequence[str]:
        """Ways to ask for it, short ones: they are read by very small models too."""

    @abstractmethod
    def solve(self, instance: Any, language: str) -> tuple[str, str]:
        """The working, one elementary step a line, and the answer."""

    def near(self, answer: str) -> Sequence[str]:
        """Wrong answers that look right."""
        value = number(answer)
        if value is not None:
            return [str(value + 1), str(value - 1), f"{answer}0", f"{answer} or {value + 1}"]
        return [answer + "x", answer[1:], answer[::-1]]

    def pose(self, instance: Any, draw: random.Random, *, id: str, key: str, level: int, language: str) -> Problem:
        """One of the wordings, chosen at random."""
        trace, answer = self.solve(instance, language)
        asked = Message(role="user", content=draw.choice(self.wordings(instance, language)))
        gold = Message(role="assistant", content=answer)
        return Problem(
            task=self.name, id=id, key=key, messages=(asked,), answer=answer, gold=gold, trace=trace, level=level
        )

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where the reply is the answer and nothing else."""
        said = final_answer(reply.text)
        if said is None:
            return Score(value=0.0, answer=None, why="there is no answer")
        right = same(said, problem.answer)
        return Score(value=float(right), answer=said, why="right" if right else f"not {problem.answer}")

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Near misses, and nothing at all."""
        texts = [text for text in ("", *self.near(problem.answer)) if not same(text, problem.answer)]
        return tuple(Message(role="assistant", content=text) for text in texts)

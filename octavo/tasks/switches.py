"""Conversations with /think and /no_think in them: the last flag says whether the model thinks.

What it shows: that the mode is followed, whatever was said before. Source: ThinkFollow of the Qwen3 report, 4.7.
"""

import random
from collections.abc import Sequence
from typing import Any

from octavo.core.messages import Message
from octavo.core.task import Problem, Score
from octavo.tasks.base import Procedural, key_of, split_of
from octavo.tasks.retrieval import Retrieval
from octavo.tasks.sorting import Sorting
from octavo.tasks.verify.answers import final_answer, same

EASY: dict[str, Procedural] = {"retrieval": Retrieval(), "sorting": Sorting()}  # the mode is what is tested
FLAGS = ("", "/think", "/no_think")

Asked = tuple[tuple[tuple[str, Any, str], ...], str]  # turns: task, its instance, flag; flag of the system message


class Switches(Procedural):
    """Level n: n questions one after the other, with flags at random, some in a system message."""

    name, levels, shows = "switches", 3, "modes"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Easy questions, of those that their own task trains with."""
        names = [draw.choice(sorted(EASY)) for _ in range(level)]
        turns = tuple((name, _known(name, draw), draw.choice(FLAGS)) for name in names)
        return turns, draw.choice(FLAGS) if draw.random() < 0.3 else ""

    def essence(self, instance: Asked) -> Asked:
        """What does not matter to a question, does not matter here."""
        turns, system = instance
        return tuple((name, EASY[name].essence(one), flag) for name, one, flag in turns), system

    def pose(self, instance: Asked, draw: random.Random, *, id: str, key: str, level: int, language: str) -> Problem:
        """Earlier turns are answered as they should be."""
        turns, system = instance
        messages = [Message(role="system", content=system)] if system else []
        mode = system or "/think"
        problems = [EASY[name].pose(one, draw, id=id, key=key, level=1, language=language) for name, one, _ in turns]
        for problem, (_, _, flag) in zip(problems, turns, strict=True):
            mode = flag or mode
            messages.append(Message(role="user", content=f"{problem.messages[-1].text} {flag}".rstrip()))
            thinking = problem.trace if mode == "/think" else ""
            messages.append(Message(role="assistant", content=problem.gold.text, thinking=thinking))
        gold, trace = messages.pop(), problems[-1].trace if mode == "/think" else ""
        answer = {"thinks": mode == "/think", "answer": problems[-1].answer}
        return Problem(
            task=self.name, id=id, key=key, messages=tuple(messages), answer=answer, gold=gold, trace=trace, level=level
        )

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where the reply thought as it should have and is right. Whether there was thinking, not what it says."""
        thought, said = bool((reply.thinking or "").strip()), final_answer(reply.text)
        if thought != problem.answer["thinks"]:
            return Score(value=0.0, answer=said, why="it thought" if thought else "it did not think")
        right = said is not None and same(said, problem.answer["answer"])
        return Score(value=float(right), answer=said, why="right" if right else f"not {problem.answer['answer']}")

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """The other mode; no answer."""
        other = "" if problem.answer["thinks"] else "hm"
        gold = problem.gold
        return (
            Message(role="assistant", content=gold.text, thinking=other),
            Message(role="assistant", thinking=gold.thinking),
        )


def _known(name: str, draw: random.Random) -> Any:
    while True:
        instance = EASY[name].draw(draw, 1)
        if split_of(key_of(EASY[name], instance)) == "train":
            return instance

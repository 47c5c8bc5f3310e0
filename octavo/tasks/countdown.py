"""Countdown: make a number out of others, all of them, each used once, with + - *.

What it shows: a search. The thinking tries one thing after another, so how long it may think decides how much it finds.
Source of the task in language models: Stream of Search, arXiv:2404.03683.
"""

import random
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from octavo.core.messages import Message
from octavo.core.task import Problem, Score
from octavo.tasks.verify.answers import final_answer
from octavo.tasks.verify.expressions import Sum
from octavo.tasks.worked import Worked

Asked = tuple[tuple[int, ...], int]
LARGEST = 99
PRECEDENCE = {"+": 1, "-": 1, "*": 2}


class Countdown(Worked):
    """Levels 1 and 2: two numbers up to 50, three up to 10; 3: three up to 15; 4: four up to 9, with + and - alone."""

    name, levels, shows = "countdown", 4, "search"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """The target is made from the numbers, so there is a way."""
        count, high, signs = {1: (2, 50, "+-*"), 2: (3, 10, "+-*"), 3: (3, 15, "+-*"), 4: (4, 9, "+-")}[level]
        while True:
            numbers = tuple(draw.randint(1, high) for _ in range(count))
            pool = list(numbers)
            while len(pool) > 1:
                b, a = sorted((pool.pop(draw.randrange(len(pool))), pool.pop(draw.randrange(len(pool)))))
                pool.append(_done(a, draw.choice([sign for sign in signs if _easy(a, sign, b)]), b))
            if 0 < pool[0] <= LARGEST and pool[0] not in numbers:
                return numbers, pool[0]

    def essence(self, instance: Asked) -> Asked:
        """The order of the numbers does not matter."""
        return tuple(sorted(instance[0])), instance[1]

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Numbers, then the target."""
        numbers, target = " ".join(map(str, instance[0])), instance[1]
        return [f"Make {target} from {numbers}, each once", f"{numbers}, each once -> {target}?",
                f"Use {numbers}, each once, to get {target}"]  # fmt: skip

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """What was tried, in a fixed order, up to the first sum that is right; the target stands beside each result, so
        that neighbours are compared, and `x` where they differ. A sum of more than two numbers is written out and
        worked out once more, and its numbers are named: whoever is cut off while checking has the answer."""
        numbers, target = instance
        signs = "+-" if len(numbers) > 3 else "+-*"
        lines, answer, worked = list[str](), "", tuple[str, ...]()
        for line, found, steps in _tried([(n, str(n), 3, ()) for n in numbers], target, signs):
            lines.append(line)
            answer, worked = found, steps
        if len(numbers) > 2:
            lines.append(f"{answer}: {' '.join(worked)}")
            lines.append(f"{' '.join(map(str, Sum(answer).numbers))} once each")
        return "\n".join(lines), answer

    def near(self, answer: str) -> list[str]:
        """Another sum, one with a number too many, the target itself."""
        total = Sum(answer).value
        return [f"{answer}+1", str(total), answer.replace("+", "-") if "+" in answer else f"{answer}-1", "(" + answer]

    def pose(self, instance: Asked, draw: random.Random, *, id: str, key: str, level: int, language: str) -> Problem:
        """The answer that is kept is the question's: numbers and target."""
        posed = super().pose(instance, draw, id=id, key=key, level=level, language=language)
        return replace(posed, answer={"numbers": sorted(instance[0]), "target": instance[1]})

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Near misses that come out wrong or use other numbers."""
        texts = ["", *self.near(problem.gold.text)]
        return tuple(Message(role="assistant", content=text) for text in texts if not _right(text, problem.answer))

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 for any sum of all these numbers that comes out right; "= target" may stand behind it, or before it."""
        said = final_answer(reply.text)
        if said is None:
            return Score(value=0.0, answer=None, why="there is no answer")
        right = _right(said, problem.answer)
        return Score(
            value=float(right), answer=said, why="right" if right else "not a sum of these numbers that comes out"
        )


def _right(said: str, wanted: dict[str, object]) -> bool:
    read, *others = sorted(map(Sum, said.split("=")), key=lambda side: len(side.numbers), reverse=True)
    if len(others) > 1 or any(len(one.numbers) != 1 or one.value != wanted["target"] for one in others):
        return False
    return read.value == wanted["target"] and sorted(read.numbers) == wanted["numbers"]


def _easy(a: int, sign: str, b: int) -> bool:
    """Products of two numbers with more than one digit each are not tried: they take columns."""
    return sign != "*" or (b < 10 and a < 100)


def _done(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


# value, text, precedence of its last sign, the sums that made it
Made = tuple[int, str, int, tuple[str, ...]]


def _tried(pool: list[Made], target: int, signs: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Lines of the search and, with the last, the sum that is right and its steps."""
    for i in range(len(pool)):
        for j in range(i + 1, len(pool)):
            (a, a_text, a_rank, a_steps), (b, b_text, b_rank, b_steps) = pool[i], pool[j]
            if a < b:
                (a, a_text, a_rank, a_steps), (b, b_text, b_rank, b_steps) = pool[j], pool[i]
            rest = [one for k, one in enumerate(pool) if k not in (i, j)]
            for sign in (sign for sign in signs if _easy(a, sign, b)):
                value, rank = _done(a, sign, b), PRECEDENCE[sign]
                left = f"({a_text})" if a_rank < rank else a_text
                right = f"({b_text})" if b_rank < rank or (sign == "-" and b_rank == 1) else b_text
                text, line = f"{left}{sign}{right}", f"{a}{sign}{b}={value}"
                steps = (*a_steps, *b_steps, line)
                if not rest:
                    found = value == target
                    yield f"{line} {target}" + ("" if found else " x"), text if found else "", steps
                    if found:
                        return
                    continue
                yield f"{line} [{' '.join(str(one[0]) for one in rest)}]", "", ()
                for found in _tried([(value, text, rank, steps), *rest], target, signs):
                    yield found
                    if found[1]:
                        return

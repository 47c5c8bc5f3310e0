"""Instructions on the form of an answer: how many words, in which case, in which order, as JSON.

What it shows: that a model does as it is told, like IFEval (arXiv:2311.07911), in miniature.
"""

import json
import random
from collections.abc import Callable, Sequence

from octavo.core.messages import Message
from octavo.core.task import Problem, Score
from octavo.tasks.worked import Worked

WORDS = ("boat", "book", "lamp", "cup", "ball", "key", "hat", "map", "tree", "fish", "moon", "sand")
# what is asked for -> what it makes of the words
FORMS: dict[str, Callable[[Sequence[str]], str]] = {
    "in upper case": lambda words: " ".join(words).upper(),
    "in reverse order": lambda words: " ".join(words[::-1]),
    "sorted": lambda words: " ".join(sorted(words)),
    "with commas": lambda words: ", ".join(words),
    "first 2 only": lambda words: " ".join(words[:2]),
    "last word only": lambda words: words[-1],
    "each twice": lambda words: " ".join(f"{word} {word}" for word in words),
    "in quotes": lambda words: f'"{" ".join(words)}"',
    'as JSON with key "words"': lambda words: json.dumps({"words": list(words)}),
    'as a JSON list': lambda words: json.dumps(list(words)),
}  # fmt: skip
ORDERS = ("in reverse order", "sorted", "first 2 only", "each twice")  # may come before another form

Asked = tuple[tuple[str, ...], tuple[str, ...]]


class Forms(Worked):
    """Levels 1 to 3: one form of two to four words; 4 and 5: two forms, one after the other."""

    name, levels, shows = "format", 5, "format"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Different words."""
        words = tuple(draw.sample(WORDS, level + 1 if level < 4 else level - 1))
        last = draw.choice(sorted(FORMS))
        if level < 4:
            return words, (last,)
        first = draw.choice([form for form in ORDERS if form != last])
        return words, (first, last)

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """The words, and how they are wanted."""
        words, forms = " ".join(instance[0]), ", then ".join(instance[1])
        return [f"Write {words} {forms}", f"{words} {forms}, please", f"Give me {words} {forms}"]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Each form by itself."""
        words, lines, text = list(instance[0]), list[str](), ""
        for form in instance[1]:
            text = FORMS[form](words)
            lines.append(f"{form}: {text}")
            words = text.split() if form in ORDERS else words
        return "\n".join(lines), text

    def near(self, answer: str) -> list[str]:
        """Another case, a word more, a sign less."""
        return [answer.swapcase(), f"{answer} and", answer[:-1], f"Sure: {answer}"]

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 for just that text; of JSON, for just that value."""
        said = reply.text.strip()
        right = said == problem.answer or (problem.answer[0] in "[{" and _json(said) == json.loads(problem.answer))
        return Score(value=float(right), answer=said or None, why="right" if right else f"not {problem.answer}")

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Near misses; case counts here."""
        texts = [text for text in ("", *self.near(problem.answer)) if text != problem.answer]
        return tuple(Message(role="assistant", content=text) for text in texts)


def _json(text: str) -> object:
    try:
        return json.loads(text) if len(text) < 1000 else None
    except (ValueError, RecursionError):
        return None

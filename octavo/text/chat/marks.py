"""Telling a template's own text from what somebody typed: marks go in with the messages and come out again."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from octavo.text.chat.base import Span

_LAST_WORD = re.compile(r"\w+$")


def strings(value: Any) -> Iterator[str]:
    """All text within dictionaries and lists, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)


class Beginnings:
    """Finds where a text holds one of `names`, ends with the beginning of one, or begins in the midst of one.

    In the midst: the template may write the beginning itself, as in `<` ~ key ~ `>`. Mere words are not meant: keys and
    roles are words.
    """

    def __init__(self, names: Sequence[str]) -> None:
        by_first = {name[0]: [other for other in names if other[0] == name[0]] for name in names}
        self._whole = re.compile("|".join(_first_of_any(group) for group in by_first.values()) or "(?!)")
        self._parts = {name[:size] for name in names for size in range(1, len(name))}
        self._rests = [name[1:] for name in names]
        self._tails = {rest[at:] for rest in self._rests for at in range(len(_LAST_WORD.sub("", rest)))}
        self._longest = max(map(len, names), default=0)

    def __call__(self, text: str) -> list[int]:
        """Places in order."""
        found = {match.start() for match in self._whole.finditer(text)}
        kept = text.rstrip()  # templates trim
        sizes = range(1, min(self._longest, len(kept) + 1))
        found |= {len(kept) - size for size in sizes if kept[-size:] in self._parts}
        trimmed = kept.lstrip()
        if self._goes_on(trimmed):
            found.add(len(kept) - len(trimmed))
        return sorted(found)

    def _goes_on(self, text: str) -> bool:
        """Whether the text begins with a name's last characters, or is all in the midst of a name."""
        if any(text[:size] in self._tails for size in range(1, min(self._longest, len(text) + 1))):
            return True
        return len(text) < self._longest and bool(_LAST_WORD.sub("", text)) and any(text in r for r in self._rests)


def _first_of_any(names: Sequence[str]) -> str:
    """A pattern of the character that all names begin with, where one of them stands. Most text is passed at once."""
    return f"{re.escape(names[0][0])}(?={'|'.join(re.escape(name[1:]) for name in names)})"


class Typed:
    """Puts a mark before every place in messages and tools where an added token begins, or may begin or go on.

    literals   added token -> whether it is a control token;   template   text of the template
    """

    def __init__(self, literals: Mapping[str, bool], *, template: str) -> None:
        self._names = [name for name in literals if name and not name.isspace()]
        self._all = Beginnings(self._names)
        # those that the template cannot look for, and with them those that must never come from a message
        self._unknown = Beginnings([name for name in self._names if name not in template])
        self._strict = Beginnings([name for name in self._names if literals[name] or name not in template])

    def variants(self, variables: Mapping[str, Any], *, mark: str) -> Iterator[dict[str, Any]]:
        """The variables with marks: everywhere; then less and less where the template looks at tokens itself."""
        for others, replies in ((self._all, self._all), (self._all, self._unknown), (self._strict, self._unknown)):
            marked = dict(variables)
            marked["tools"] = marked_in(variables["tools"], others, mark)
            marked["messages"] = [
                marked_in(message, replies if message["role"] == "assistant" else others, mark)
                for message in variables["messages"]
            ]
            yield marked

    def example(self, variables: Mapping[str, Any]) -> str:
        """An added token that occurs in the messages."""
        texts = list(strings([variables["messages"], variables["tools"] or []]))
        return next((name for name in self._names if any(name in text for text in texts)), "")


def marked_in(value: Any, beginnings: Beginnings, mark: str) -> Any:
    """A value with `mark` at the beginnings in all its text."""
    if isinstance(value, str):
        done, pieces = 0, list[str]()
        for at in beginnings(value):
            pieces += [value[done:at], mark]
            done = at
        return "".join([*pieces, value[done:]])
    if isinstance(value, Mapping):
        return {marked_in(key, beginnings, mark): marked_in(item, beginnings, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [marked_in(item, beginnings, mark) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Zones:
    """A rendered text.   typed: characters that begin a token somebody typed;   trained: what the model writes"""

    text: str
    typed: list[int]
    trained: list[tuple[int, int]]

    @classmethod
    def read(cls, marked: str, *, mark: str, trained_marks: tuple[str, str]) -> "Zones":
        """Take the marks out of a rendered text."""
        pieces: list[str] = []
        typed: list[int] = []
        trained: list[tuple[int, int]] = []
        size = begun = 0
        for piece in re.split(f"([{mark}{''.join(trained_marks)}])", marked):
            if piece == mark:
                typed.append(size)
            elif piece and piece == trained_marks[0]:
                begun = size
            elif piece and piece == trained_marks[1]:
                trained.append((begun, size))
            else:
                pieces.append(piece)
                size += len(piece)
        return cls("".join(pieces), typed, trained)

    def spans(self, trained: Iterable[tuple[int, int]]) -> Iterator[Span]:
        """The text cut where trust or training changes."""
        ranges = [(begin, end) for begin, end in trained if end > begin]
        typed = set(self.typed)
        borders = {0, len(self.text), *(at for pair in ranges for at in pair)}
        borders |= typed | {at + 1 for at in typed}
        cuts = sorted(at for at in borders if at <= len(self.text))
        for begin, end in pairwise(cuts):
            inside = any(low <= begin < high for low, high in ranges)
            yield Span(self.text[begin:end], trusted=begin not in typed, trained=inside)

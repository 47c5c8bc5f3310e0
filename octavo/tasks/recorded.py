"""Tasks on data that others made: problems in files, each file's own split kept."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.core.task import Problem, Split
from octavo.tasks.base import Task

FOLDER = "OCTAVO_DATA"  # environment variable: the folder with the data; each set has a folder of its own in it


class Recorded(Task):
    """A task whose problems stand in files.

    folder   that holds the files; None: the one that OCTAVO_DATA names. It is read when the first problem is asked for
    source   where the official files come from, for whoever lacks them
    splits   that the data has; `levels` likewise are the data's own

    Problem `seed` is the row of that number among those of its level; after the last one it begins anew, so whoever
    wants each once asks `count`.
    """

    source: str
    splits: tuple[Split, ...] = ("test",)

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[tuple[Split, str], list[list[Any]]] = {}

    @abstractmethod
    def read(self, split: Split, language: str) -> Sequence[tuple[int, Any]]:
        """Level and row of each problem of a split, in the file's order. Raises TaskError: see `lines`."""

    @abstractmethod
    def pose(self, row: Any, *, id: str, level: int, language: str) -> Problem:
        """A row as a problem."""

    def problem(self, seed: int, *, level: int = 1, split: Split = "test", language: str = "en") -> Problem:
        """Row number `seed`, counted round and round."""
        rows = self._rows(level, split, language)
        place = seed % len(rows)
        return self.pose(rows[place], id=f"{split}-{level}-{place}-{language}", level=level, language=language)

    def count(self, *, level: int = 1, split: Split = "test", language: str = "en") -> int:
        """How many different problems there are."""
        return len(self._rows(level, split, language))

    def lines(self, name: str) -> Iterator[str]:
        """Lines of a file of the data. Raises TaskError where the folder or the file is not there, or is no text."""
        named = os.environ.get(FOLDER)
        folder = self.folder or (Path(named) if named else None)
        remedy = f"Its official files: {self.source}. Put them into a folder and name that in {FOLDER}."
        if folder is None:
            raise TaskError(f"{self.name} needs its data, {name}, and no folder is named. {remedy}")
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as cause:
            raise TaskError(
                f"{self.name} needs {name} in {folder}, and it cannot be read ({cause}). {remedy}"
            ) from cause
        return (line for line in text.split("\n") if line.strip())

    def _rows(self, level: int, split: Split, language: str) -> list[Any]:
        choices: tuple[tuple[str, Any, Sequence[Any]], ...] = (
            ("split", split, self.splits), ("language", language, self.languages),
            ("level", level, range(1, self.levels + 1)),
        )  # fmt: skip
        for what, asked, has in choices:
            if asked not in has:
                raise TaskError(f"{self.name} has no {what} {asked}: it has {', '.join(map(str, has))}.")
        if (split, language) not in self._kept:
            levels: list[list[Any]] = [[] for _ in range(self.levels)]
            for at, row in self.read(split, language):
                levels[at - 1].append(row)
            self._kept[split, language] = levels
        rows = self._kept[split, language][level - 1]
        if not rows:
            raise TaskError(f"{self.name}: its data has no problem of level {level} in the split {split}.")
        return rows

    def _some(self, count: int) -> Iterator[Problem]:
        for split in self.splits:
            for language in self.languages:
                for level in range(1, self.levels + 1):
                    for seed in range(min(count, self.count(level=level, split=split, language=language))):
                        yield self.problem(seed, level=level, split=split, language=language)


def replies(*texts: str) -> tuple[Message, ...]:
    """Texts as replies of a model."""
    return tuple(Message(role="assistant", content=text) for text in texts)

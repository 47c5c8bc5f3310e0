"""The part of the terminal that is still changing: drawn over in place, while finished rows scroll away above it."""

import os
from collections.abc import Callable, Sequence
from typing import TextIO

from octavo.cli.markdown import Row

BEGIN, END = "\x1b[?2026h\x1b[?25l", "\x1b[?25h\x1b[?2026l"  # one picture, not its making; the cursor hidden meanwhile
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"


def terminal_size(out: TextIO) -> os.terminal_size:
    """Columns and lines of the terminal behind `out`, as they are now; 80 x 24 where it does not say."""
    try:
        size = os.get_terminal_size(out.fileno())
    except OSError:
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))


class LiveRegion:
    """Rows at the bottom of a terminal. Between two draws nothing else may write to it."""

    def __init__(self, out: TextIO, *, size: Callable[[], os.terminal_size]) -> None:
        self.out, self.size_now = out, size
        self.shown: list[Row] = []
        self.marked: int | None = None  # finished rows since the marked one, that one included
        self.reach = 0  # the most rows there ever were from the marked one down: more than fit pushed it off the screen
        self.size = self.size_now()

    def draw(self, finished: Sequence[Row], live: Sequence[Row], *, mark: bool = False) -> None:
        """Let `finished` scroll away for good, then show `live` below: its last rows where the screen is too low.

        mark: remember the first of `finished`, for `rewrite`.
        """
        before, self.size = self.size, self.size_now()
        resized = before != self.size
        live = list(live)[-max(1, self.size.lines - 1) :]
        old = [] if resized else self.shown
        same = 0
        while not finished and same < min(len(old), len(live)) and old[same] == live[same]:
            same += 1
        if not finished and not resized and same == len(live) == len(old):
            return
        text = [BEGIN, self._to_top(before.columns if resized else 0), "\x1b[J" if resized else ""]
        text += [self._drawn(row) + "\r\n" for row in finished]
        fresh = live[same:]
        text.append("\r\n" * (same if fresh else max(0, same - 1)))
        text += [WRAP_OFF, "\r\n".join(self._drawn(row) for row in fresh), WRAP_ON]
        if len(old) > len(finished) + len(live):
            text.append("\r\n\x1b[J\x1b[A" if live else "\x1b[J")
        self._write("".join(text) + END)
        self.shown = live
        self._count(finished, restart=mark, resized=resized)

    def rewrite(self, row: Row) -> bool:
        """Put `row` in the place of the marked one; False, and nothing happens, where that has left the screen."""
        if self.marked is None or self.reach > self.size.lines or self.size_now() != self.size:
            return False
        up = self.marked + max(0, len(self.shown) - 1)
        self._write(f"{BEGIN}\r\x1b[{up}A\x1b[2K{WRAP_OFF}{row.text}{WRAP_ON}\r\x1b[{up}B{END}")
        return True

    def _count(self, finished: Sequence[Row], *, restart: bool, resized: bool) -> None:
        rows = sum(max(1, -(-row.cells // self.size.columns)) for row in finished)
        if restart:
            self.marked, self.reach = rows, 0
        elif self.marked is not None:
            self.marked = None if resized else self.marked + rows
        self.reach = max(self.reach, (self.marked or 0) + max(1, len(self.shown)))

    def _to_top(self, wrapped_from: int) -> str:
        """wrapped_from: the width that the rows were drawn for, where the terminal has wrapped them anew; else 0."""
        height = len(self.shown)
        if wrapped_from:
            height = sum(max(1, -(-min(row.cells, wrapped_from) // self.size.columns)) for row in self.shown)
        return "\r" + (f"\x1b[{height - 1}A" if height > 1 else "")

    def _drawn(self, row: Row) -> str:
        # In the last column a terminal has not gone to the next line yet: erasing there would take the last character.
        return row.text + ("\x1b[K" if row.cells < self.size.columns else "")

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

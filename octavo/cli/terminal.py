"""An answer in a terminal: finished blocks scroll away, the last one grows in place, thinking folds into one line."""

import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from octavo.cli.clean import clean
from octavo.cli.live import LiveRegion, terminal_size
from octavo.cli.markdown import Row, block_rows, blocks, finished_blocks, rows_of
from octavo.cli.screen import thought
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, ToolCallDelta

FRAME_S = 0.08  # at most 12 pictures a second
DRAW_SHARE = 9  # and after each a pause of 9 times what it took: at most a tenth of the time goes into drawing
QUIET_S = 0.3  # before we say what we wait for
MIN_COLUMNS = 12  # narrower than this rich has no room for a table: rows are cut off instead
EMPTY = Row("", 0)


class TerminalScreen:
    """A conversation in a terminal. NO_COLOR leaves bold and dim."""

    interactive = True

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.out, self.clock = out, clock
        self.console = Console(file=out, force_terminal=True, markup=False, highlight=False, emoji=False)
        self.errors = Console(stderr=True, markup=False, highlight=False, emoji=False)

    def rows(self, picture: RenderableType) -> list[Row]:
        """A picture as wide as the terminal is now."""
        self.console.width = max(MIN_COLUMNS, terminal_size(self.out).columns)
        return rows_of(self.console, picture)

    def block(self, text: str) -> list[Row]:
        """A block of Markdown as wide as the terminal is now."""
        self.console.width = max(MIN_COLUMNS, terminal_size(self.out).columns)
        return block_rows(self.console, text)

    def note(self, text: str) -> None:
        """One remark, dim."""
        self.lines([text])

    def lines(self, texts: Sequence[str]) -> None:
        """Several lines that belong together, dim."""
        for text in texts:
            self.out.write("".join(row.text + "\n" for row in self.rows(Text(clean(text), style="dim")) or [EMPTY]))
        self.out.flush()

    def error(self, text: str) -> None:
        """What went wrong, in red, on stderr."""
        self.errors.width = max(MIN_COLUMNS, terminal_size(self.out).columns)
        self.errors.print(Text(clean(text), style="red"))

    def answer(self) -> "TerminalAnswer":
        """Begin an answer."""
        return TerminalAnswer(self)


class TerminalAnswer:
    """One answer. `add` takes note; `draw` shows it when a new picture is due; `close` leaves it in its last form."""

    def __init__(self, screen: TerminalScreen) -> None:
        self.screen, self.clock = screen, screen.clock
        self.region = LiveRegion(screen.out, size=lambda: terminal_size(screen.out))
        self.began_s = self.due_s = self.clock()
        self.thoughts, self.pieces, self.thinking_s = "", 0, 0.0
        self.thinking_since_s: float | None = None
        self.text, self.blocks_shown, self.answering, self.dirty = "", 0, False, False
        self.hinted = "Ctrl-C stops"

    @property
    def thinking(self) -> bool:
        """Whether the model is thinking at the moment."""
        return self.thinking_since_s is not None

    def add(self, delta: Delta) -> None:
        """Take note of a delta. The end of thinking is shown at once, so that it is the time measured."""
        self.dirty = True
        if isinstance(delta, ThinkingDelta):
            if self.thinking_since_s is None:
                self.thinking_since_s = self.clock()
                self.hinted = "Ctrl-C: answer now"
            self.thoughts += clean(delta.text)
            self.pieces += 1
            return
        self._fold()
        if isinstance(delta, TextDelta):
            self.answering = self.answering or bool(delta.text)
            self.text += clean(delta.text)
        elif isinstance(delta, ToolCallDelta):
            self.answering = True
            self.text += clean(f"\n\n`{delta.call.name}({delta.call.arguments})`\n\n")

    def hint(self, text: str) -> None:
        """What the next Ctrl-C does."""
        self.hinted, self.dirty, self.due_s = text, True, 0.0

    def wait_s(self) -> float:
        """Seconds until the next picture is due."""
        return max(0.001, self.due_s - self.clock()) if self.dirty else FRAME_S

    def draw(self) -> None:
        """Show what came since the last picture, unless that was too short a time ago."""
        began_s = self.clock()
        if began_s < self.due_s or (self.answering and not self.dirty):
            return
        if self.answering:
            self._show_text()
        else:
            self.region.draw([], self._waiting())
        self.dirty = False
        self.due_s = self.clock() + max(FRAME_S, DRAW_SHARE * (self.clock() - began_s))

    def close(self, finished: Finished | None) -> None:
        """Show the whole of it; nothing stays live."""
        self._fold()
        rest = [block for block in blocks(self.text) if block.strip()]
        self.text = ""
        self.region.draw(self._separated(rest), [])
        usage = finished.usage if finished else None
        if usage and usage.thinking_tokens and self.thoughts.strip():
            line = thought(self.thinking_s, usage.thinking_tokens, stop=usage.thinking_stop)
            self.region.rewrite(self._dim(line)[0])

    def _waiting(self) -> list[Row]:
        now_s = self.clock()
        if self.thinking_since_s is None:
            passed_s = now_s - self.began_s
            return self._dim(f"reading … {passed_s:.1f} s   ({self.hinted})") if passed_s >= QUIET_S else []
        passed_s = now_s - self.thinking_since_s
        lines = self.region.size.lines
        visible = self.thoughts[-lines * self.region.size.columns :].strip()
        rows = self.screen.rows(Text(visible, style="dim italic")) if visible else []
        status = self._dim(f"thinking … {passed_s:.1f} s, {self.pieces:,} tokens   ({self.hinted})")[:1]
        return rows[-max(1, lines - 3) :] + status

    def _fold(self) -> None:
        if self.thinking_since_s is not None:
            self.thinking_s += self.clock() - self.thinking_since_s
            self.thinking_since_s, self.hinted = None, "Ctrl-C stops"
            said = [*self._dim(thought(self.thinking_s, self.pieces)), EMPTY] if self.thoughts.strip() else []
            self.region.draw(said, [], mark=bool(said))

    def _show_text(self) -> None:
        done, self.text = finished_blocks(self.text)
        finished = self._separated([block for block in done if block.strip()])
        open_blocks = [block for block in blocks(self.text) if block.strip()]
        shown = self.blocks_shown
        self.region.draw(finished, self._separated(open_blocks))
        self.blocks_shown = shown

    def _separated(self, texts: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for text in texts:
            drawn = self.screen.block(text)
            if drawn:
                rows += [EMPTY, *drawn] if self.blocks_shown else drawn
                self.blocks_shown += 1
        return rows

    def _dim(self, text: str) -> list[Row]:
        return self.screen.rows(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))

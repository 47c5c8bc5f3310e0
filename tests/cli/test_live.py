"""Drawing in place equals printing: an emulator shows every finished row once, then the live ones."""

import io
import os

import pyte
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from octavo.cli.live import LiveRegion
from octavo.cli.markdown import Row

COLUMNS, LINES = 20, 8
ROWS = (
    st.text("ab 日本", max_size=COLUMNS // 2)
    .map(lambda text: text.rstrip())
    .map(lambda text: Row(text, cell_len(text)))
)
FULL = st.text("xy", min_size=COLUMNS, max_size=COLUMNS).map(lambda text: Row(text, COLUMNS))  # to the last column
DRAWS = st.lists(st.tuples(st.lists(ROWS | FULL, max_size=6), st.lists(ROWS | FULL, max_size=14)), max_size=12)


class Emulated:
    def __init__(self, columns: int = COLUMNS, lines: int = LINES) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.out = io.StringIO()
        self.region = LiveRegion(self.out, size=lambda: os.terminal_size((self.screen.columns, self.screen.lines)))
        self.size = 0

    def draw(self, finished: list[Row], live: list[Row], *, mark: bool = False) -> str:
        self.region.draw(finished, live, mark=mark)
        return self.show()

    def show(self) -> str:
        new = self.out.getvalue()[self.size :]
        self.size += len(new)
        self.stream.feed(new)
        return new

    @property
    def text(self) -> list[str]:
        above = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]


def stripped(rows: list[str]) -> list[str]:
    while rows and not rows[-1]:
        rows = rows[:-1]
    return rows


@given(DRAWS)
@settings(max_examples=300)
def test_drawing_in_place_shows_what_printing_would(draws: list[tuple[list[Row], list[Row]]]):
    terminal, finished = Emulated(), []
    for new, live in draws:
        terminal.draw(new, live)
        finished += new
        seen = [row.text for row in [*finished, *live[-(LINES - 1) :]]]
        assert stripped(terminal.text) == stripped(seen)


@given(DRAWS)
def test_a_picture_that_did_not_change_writes_nothing(draws: list[tuple[list[Row], list[Row]]]):
    terminal = Emulated()
    for new, live in draws:
        terminal.draw(new, live)
        assert terminal.draw([], live) == ""


def test_only_rows_that_changed_are_written():
    terminal = Emulated()
    terminal.draw([], [Row("first", 5), Row("second", 6)])
    written = terminal.draw([], [Row("first", 5), Row("second!", 7)])
    assert "second!" in written and "first" not in written and "\x1b[J" not in written and "\x1b[2J" not in written


@given(before=DRAWS, after=DRAWS, line=ROWS)
@settings(max_examples=200)
def test_a_marked_row_is_rewritten_where_it_stands_or_not_at_all(before, after, line: Row):
    terminal, finished, live = Emulated(), [], []
    for new, _ in before:
        terminal.draw(new, [])
        finished += new
    place = len(finished)
    terminal.draw([Row("MARK", 4)], [], mark=True)
    finished.append(Row("MARK", 4))
    for new, live in after:
        terminal.draw(new, live)
        finished += new
    if terminal.region.rewrite(line):
        finished[place] = line
    terminal.show()
    terminal.draw([Row("end", 3)], [])  # and the cursor is where it was
    assert stripped(terminal.text) == [row.text for row in [*finished, Row("end", 3)]]


def test_a_row_wider_than_the_terminal_thinks_is_cut_and_shifts_nothing():
    terminal = Emulated()
    for _ in range(3):
        terminal.draw([], [Row("w" * 30, COLUMNS), Row("next", 4)])  # measured wrongly, as new emoji may be
    terminal.draw([Row("done", 4)], [])
    assert stripped(terminal.text) == ["done"]


@given(st.lists(ROWS | FULL, min_size=1, max_size=5), st.integers(8, 40))
def test_after_a_resize_nothing_finished_is_lost(live: list[Row], columns: int):
    terminal = Emulated(lines=40)
    terminal.draw([Row("kept", 4)], live)
    terminal.screen.resize(40, columns)
    terminal.draw([], [Row("new", 3)])
    terminal.draw([Row("last", 4)], [])
    assert terminal.text[0] == "kept" or columns < COLUMNS  # this emulator does not wrap old rows anew; others do
    assert "last" in terminal.text and "new" not in terminal.text

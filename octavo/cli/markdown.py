"""Markdown that is still being written: which blocks are finished, and what a block looks like in a terminal.

Source of the rule: CommonMark 0.31, appendix "A parsing strategy": a line changes only blocks that are still open, and
of the blocks at the top level only the last one is.
"""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.text import Text

from octavo.cli.clean import clean

STYLE = re.compile(r"\x1b\[[0-9;]*m")  # the only escape sequence that a row may hold
DEEPEST = 12  # beyond 20 the parser drops what is nested
CODE_THEME = "ansi_dark"  # the terminal's own colours, no background


class Row(NamedTuple):
    """One line of the terminal, and how many cells it takes."""

    text: str
    cells: int


@cache
def parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough in which nothing that the model wrote can vanish.

    HTML stays text, link definitions stay text, an image is shown as its link.
    """
    rules = MarkdownIt("commonmark", {"html": False})
    return rules.enable(["strikethrough", "table"]).disable(["reference", "image", "html_block", "html_inline"])


def blocks(text: str) -> list[str]:
    """`text` cut into its blocks at the top level; empty lines go with the block before them."""
    tokens = parser().parse(text)
    starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.split("\n")
    cuts = [0, *starts[1:], len(lines)]
    return ["\n".join(lines[begin:end]) for begin, end in pairwise(cuts)]


def finished_blocks(text: str) -> tuple[list[str], str]:
    """The blocks at the beginning of `text` that no later text can change, and the rest.

    Only whole lines count: the beginning of a line does not say yet which block it belongs to.
    """
    whole, newline, begun = text.rpartition("\n")
    *done, last = blocks(whole)
    return done, last + newline + begun


def block_rows(console: Console, text: str) -> list[Row]:
    """How one block, finished or not, looks in this console; no empty rows before or after."""
    tokens = parser().parse(text)
    picture = Text(text) if _too_tight(tokens, console.width) else Markdown("", code_theme=CODE_THEME, hyperlinks=False)
    if isinstance(picture, Markdown):
        picture.parsed = _with_line_breaks(tokens)
    rows = rows_of(console, picture)
    while rows and not rows[-1].cells:
        rows.pop()
    first = next((i for i, row in enumerate(rows) if row.cells), 0)
    return rows[first:]


def rows_of(console: Console, picture: RenderableType) -> list[Row]:
    """What rich draws, row by row, with no control character but those of styles."""
    with console.capture() as capture:
        console.print(picture)
    drawn = capture.get()
    return [_row(line) for line in drawn.removesuffix("\n").split("\n")] if drawn else []


def _row(line: str) -> Row:
    styles, texts = STYLE.findall(line), [clean(text).replace("\t", " ") for text in STYLE.split(line)]
    plain = "".join(texts)
    if not plain.strip():
        return Row("", 0)
    texts[-1] = texts[-1].rstrip()
    joined = "".join(text + style for text, style in zip(texts, [*styles, ""], strict=True))
    return Row(joined, cell_len("".join(texts)))


def _too_tight(tokens: Sequence[Token], width: int) -> bool:
    """Whether lists, quotes or tables would leave no room for words: then the text is shown as the model wrote it."""
    deepest = max((token.level for token in tokens), default=0)
    heads = [
        sum(token.type == "th_open" for token in tokens[i:]) for i, t in enumerate(tokens) if t.type == "table_open"
    ]
    return deepest > min(DEEPEST, width // 4) or max(heads, default=0) * 6 > width


def _with_line_breaks(tokens: Sequence[Token]) -> list[Token]:
    """A line break in a paragraph is one on the screen: models write addresses, verses and sources that way."""
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return list(tokens)

"""Markdown that streams: what is called finished never changes, nothing that the model wrote vanishes."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from octavo.cli.markdown import STYLE, block_rows, blocks, finished_blocks

LINES = st.sampled_from(
    ["", "", "a b", "- x", "  - y", "1. one", "2) two", "> q", "# h", "#", "```", "```py", "~~~", "    code", "a|b",
     "-|-", "---", "===", "***", "<div>", "</div>", "[a]: http://b", "![i](http://c)", "\ttab", "`c`", "**b", "b**",
     "日本", "😀", "|a|b|", "|:-|-:|", "|1|2|", "+ z", "   3. t", "\\*", "<b>t</b>", "&#27;[31m", "&#13;"]
)  # fmt: skip
DOCUMENTS = st.lists(LINES, max_size=14).map("\n".join) | st.text("ab \n`*_-#>|1.[]()<!~\t", max_size=40)


def console(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system="standard", markup=False)


@given(DOCUMENTS)
def test_blocks_are_the_whole_text(text: str):
    assert "\n".join(blocks(text)) == text


@given(DOCUMENTS, st.data())
@settings(max_examples=400)
def test_where_a_text_is_cut_changes_no_block(text: str, data: st.DataObject):
    done, rest, at = [], "", 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        new, rest = finished_blocks(rest + text[at : at + size])
        done, at = done + new, at + size
    assert [*done, *blocks(rest)] == blocks(text)


@given(DOCUMENTS, st.integers(12, 60))
@settings(max_examples=200)
def test_rows_fit_and_hold_nothing_but_styles(text: str, width: int):
    for block in blocks(text):
        for row in block_rows(console(width), block):
            plain = STYLE.sub("", row.text)
            assert cell_len(plain) == row.cells <= width
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", plain)


@given(st.lists(st.from_regex("[a-z]{3,9}", fullmatch=True), min_size=1, max_size=20), st.data())
def test_no_word_vanishes(words: list[str], data: st.DataObject):
    # fmt: off
    dress = st.sampled_from(["{}", "<{}>", "</{}>", "<b>{}</b>", "[{}]: http://x", "![{}](http://x)", "*{}*", "`{}`",
                             "- {}\n", "# {}\n", "<!-- {} -->", "> {}\n\n", "<div>{}</div>\n", "&lt;{}",
                             "[{}](http://y)", "> > > {}\n", "1. - + {}\n", "\n|a|b|{}|\n|-|-|-|\n|1|2|3|\n\n"])
    # fmt: on
    text = " ".join(data.draw(dress).format(word) for word in words)
    width = data.draw(st.sampled_from([12, 20, 40, 200]))
    shown = "".join(STYLE.sub("", row.text) for block in blocks(text) for row in block_rows(console(width), block))
    shown = re.sub("[^a-z]", "", shown)  # words may be cut at the end of a row, and quotes have bars
    assert all(word in shown for word in words), shown


def test_a_line_break_in_a_paragraph_stays_one():
    assert [STYLE.sub("", row.text) for row in block_rows(console(80), "roses\nviolets")] == ["roses", "violets"]


def test_a_link_shows_where_it_leads():
    assert "http://evil" in block_rows(console(80), "[http://good](http://evil)")[0].text


@pytest.mark.parametrize("text", ["[" * 3000, ">" * 3000, "*a" * 3000, "- " * 1000, "`" * 3000, "|" * 3000, "<" * 3000])
def test_strange_text_takes_no_long_time(text: str):
    assert block_rows(console(80), blocks(text + "\nend")[-1])  # pytest's own timeout would end a hang

"""No text can drive the terminal, however it is cut into pieces."""

import unicodedata

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli.clean import clean, encodable, exact, one_line
from octavo.core.errors import RequestError

ANY = st.text(st.characters(categories=None))  # lone surrogates and all control characters too
NASTY = st.text(st.sampled_from("\x1b\x9b\x9d\x90\x07\x08\x0d\x7f[]0;?Kmhl\\ab\n\t\u202e\ud800\x00\u2028"))


@given(ANY | NASTY)
def test_nothing_that_controls_is_left(text: str):
    left = {char for char in clean(text) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    assert left <= {"\n", "\t"}
    clean(text).encode()  # and it can be written


@given(st.lists(ANY | NASTY))
def test_pieces_and_whole_give_the_same(parts: list[str]):
    assert "".join(map(clean, parts)) == clean("".join(parts))


@given(ANY)
def test_cleaning_twice_is_cleaning_once(text: str):
    assert clean(clean(text)) == clean(text)


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" \n\t")))
def test_harmless_text_stays_as_it_is(text: str):
    assert clean(text) == text


@given(NASTY)
def test_a_terminal_shows_it_and_does_nothing_else(text: str):
    """Title and modes are as before, and nothing is written on other lines."""
    screen = pyte.Screen(200, 10)
    stream = pyte.Stream(screen)
    modes = set(screen.mode)
    stream.feed(one_line(text))
    assert (screen.title, set(screen.mode), screen.cursor.y) == ("", modes, 0)
    assert all(not line.strip() for line in screen.display[1:])


@given(ANY)
def test_what_is_encodable_stays(text: str):
    assert encodable(text).encode().decode() == encodable(text)
    assert encodable(encodable(text)) == encodable(text)


@given(ANY)
def test_a_name_is_taken_as_it_is_or_refused(text: str):
    if encodable(text) == text:
        assert exact(text, what="the name") == text
        return
    with pytest.raises(RequestError, match=r"the name .* not UTF-8"):
        exact(text, what="the name")

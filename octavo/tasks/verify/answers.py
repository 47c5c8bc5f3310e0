"""Short final answers: what a reply says in the end, without the politeness around it."""

import re
from fractions import Fraction

MOST = 400  # letters of an answer; a longer one is none
WRAPPED = re.compile(r"(?is)\s*(?:so\s+|thus\s+)?(?:the\s+)?(?:final\s+)?answer(?:\s+is\s*:?|\s*[:=])\s*(.+)")
NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30}|/\d{1,30})?")


def final_answer(text: str) -> str | None:
    """The answer in a reply's text: white space made single; no "The answer is", last full stop or
    exclamation mark, bold print.

    None where there is none, or where it is longer than an answer can be.
    """
    if len(text) > 4 * MOST:
        return None
    wrapped = WRAPPED.fullmatch(text)
    said = " ".join((wrapped[1] if wrapped else text).split())
    said = _unstopped(said)
    if len(said) > 4 and said.startswith("**") and said.endswith("**"):
        said = _unstopped(said[2:-2])
    return said if 0 < len(said) <= MOST else None


def _unstopped(text: str) -> str:
    return re.sub(r"[.。]+$|(?<=[^\W\d]{2}|.\*)[!！]$", "", text).strip()


def number(text: str) -> Fraction | None:
    """The number that a text is, with or without thousands commas: an integer, a decimal or a fraction; else None."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip())
    if NUMBER.fullmatch(plain) is None or re.fullmatch(r".*/0+", plain):
        return None
    return Fraction(plain)


def same(said: str, gold: str) -> bool:
    """Whether two answers are one: as numbers where the gold one is a number, else letter by letter.

    Case does not matter, nor do commas between the parts of a list.
    """
    wanted = number(gold)
    if wanted is not None:
        return number(said) == wanted
    if " " in gold:
        said = " ".join(said.replace(",", " ").split())
    return said.casefold() == gold.casefold()

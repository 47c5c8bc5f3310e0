r"""Answers of mathematical problems: where they stand in a reply, and when two of them are the same.

Simple ones (the same text but for its looks, numbers, words) are compared here; the rest by `math-verify`, in a process
of its own that is ended when it takes too long.
"""

import re
import unicodedata
from fractions import Fraction
from pathlib import Path

from octavo.tasks.sandbox import Worker

# How Qwen3's model cards say that a mathematical problem is best asked.
REQUEST = {
    "en": r"Please reason step by step, and put your final answer within \boxed{}.",
    "de": r"Bitte denke Schritt für Schritt nach und schreibe die Antwort am Ende in \boxed{}.",
    "fr": r"Raisonne étape par étape, puis écris la réponse finale dans \boxed{}.",
    "ja": r"順を追って考え、最後の答えを \boxed{} の中に書いてください。",
    "zh": r"请逐步思考，并把最终答案写在 \boxed{} 中。",
}

SOLVED = re.compile(r"(?s)(.*)\n#### *(-?[\d,]+)\s*")  # a solution in GSM8K: working and answer
MOST = 400  # letters of an answer; a longer one is none
SAID = re.compile(
    r"(?i)(?:(?:answer|antwort|réponse|答案|答え)[*]*\s*(?:(?:is|ist|lautet|est|是|为|は)\s*[:=：]?|[:=：])|####)\s*([^\n]+)"
)
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
FRACTION = re.compile(r"([-+]?)(\d{1,9} ?(?=\\frac))?(?:\\frac\{(-?\d{1,30})\}\{(\d{1,30})\}|(-?\d{1,30})/(\d{1,30}))")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
DECIMAL = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})")
BASED = re.compile(r"[0-9A-Z]{1,40}_\d{1,2}")  # a number and its base
WORDS = re.compile(r"\s*(?:\\(?:text|mbox|mathrm|textbf)\{[^{}]*\}|[a-zA-Z]{3,40}(?: [a-zA-Z]{1,40})*)\s*")
UNIT = re.compile(r"(?<=[\d})])\s*\\(?:text|mbox|mathrm|textrm)\{[^{}]*\}(?:\^\{?[23]\}?)?$")
LOOKS = re.compile(r"(?<!\\)\\(?:left|right|displaystyle|[!,;: ]|quad|qquad)(?![a-zA-Z])")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} of a text, brackets inside matched; None without a whole one."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start, depth = start + len(r"\boxed{"), 1
    for at in range(start, min(len(text), start + MOST + 1)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at].strip()
    return None


def in_box(answer: str) -> str:
    r"""An answer as a reply that ends in \boxed{}."""
    return rf"\boxed{{{answer}}}"


def marked_answer(text: str) -> str | None:
    r"""What a reply says its answer is: the last \boxed{}; else what follows the last "answer is" or "####"."""
    said = boxed(text)
    if said is None and r"\boxed{" not in text:
        marked = SAID.findall(text)
        said = marked[-1].strip(" \t\r*").rstrip(" *.。") if marked else ""
    return said if said and len(said) <= MOST else None


def maths_answer(text: str) -> str | None:
    """The answer of a reply: what it marks as such; of a short reply that marks nothing, all; else None."""
    short = "" if len(text) > 80 or "\n" in text.strip() or r"\boxed{" in text else text.strip().rstrip(".")
    return marked_answer(text) or short or None


def number_answer(text: str, language: str = "en") -> Fraction | None:
    """The number that the answer of a reply is; None where there is none, or more than one number in it.

    Where nothing is marked as the answer, the last number counts. In German and French texts 1.000 and 1 000 are a
    thousand and 1,5 is one and a half; so are 1,000 and 1.5, as models write English there.
    """
    gaps = "\u00a0\u202f\u2009'" + (" " if language in ("de", "fr") else "")
    text = re.sub(rf"(?<=\d)[{gaps}](?=\d{{3}}(?!\d))", ",", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    answer = marked_answer(text)
    if answer is None:
        answer, found = text, [] if r"\boxed{" in text else [*DIGITS.finditer(text)][-1:]
    else:
        whole = plain(answer)
        aside = re.sub(r"\([^()=]*=[^()]*\)", "", whole).strip()  # as in 5 (x=3)
        answer = (aside or whole.strip("()")).rsplit("=", 1)[-1].strip()
        value = exact(answer)
        if value is not None and DIGITS.fullmatch(answer.lstrip("+-")) is None:
            return value
        found = [*DIGITS.finditer(answer)]
    if len(found) != 1:
        return None
    value = _reading(found[0][0], language)
    before = answer[: found[0].start()].rstrip("$€£¥ \\")
    negative = before.endswith("-") and not re.search(r"[\w)]\s*-$", before)
    return None if value is None else -value if negative else value


def _reading(digits: str, language: str) -> Fraction | None:
    """What digits with separators stand for."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        return Fraction(digits.replace(",", ""))
    if language in ("de", "fr") and re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+,\d+", digits):
        return Fraction(digits.replace(".", "").replace(",", "."))
    return Fraction(digits) if DECIMAL.fullmatch(digits) else None


def plain(text: str) -> str:
    r"""An answer in LaTeX without what only makes it look nice: sizes of brackets, spaces, units, degrees."""
    text = text.replace("\\$", "").replace("$", "").replace("\u2212", "-").strip().rstrip(".")
    text = re.sub(r"\\\(|\\\)|\\\[|\\\]", "", text)
    text = re.sub(r"(?<=\d)(?:,\\! ?|\{,\}|\\,)(?=\d{3}(?!\d))", ",", text)
    text = LOOKS.sub("", text).replace("\\%", "").replace("%", "")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\^\{?\\circ\}?|°|\\degree", "", text)
    text = UNIT.sub("", text.strip())
    text = re.sub(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(frac|sqrt)\s*(\d)", r"\\\1{\2}", text)
    text = re.sub(r"\\frac(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}", text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    text = re.sub(r"_(\d)\b|_\{(\d+)\}", lambda m: f"_{m[1] or m[2]}", text)
    return " ".join(text.split())


def exact(text: str) -> Fraction | None:
    r"""The number that a plain answer is: 12, 1,000, .5, 3/4, \frac{3}{4}, 1\frac{3}{4}; else None."""
    if THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if DECIMAL.fullmatch(text):
        return Fraction(text)
    match = FRACTION.fullmatch(text)
    if match is None:
        return None
    top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
    if bottom == 0:
        return None
    return (-1 if match[1] == "-" else 1) * (int(match[2] or 0) + Fraction(top, bottom))


class Maths:
    """Compares answers.   answer_s   what one comparison may take; the judge's own process is ended then."""

    def __init__(self, answer_s: float = 5.0) -> None:
        self._worker = Worker(Path(__file__).with_name("judge.py"), answer_s=answer_s)

    def same(self, said: str, gold: str) -> bool | None:
        """Whether two answers are the same; None where that could not be found out in time. A base may be left out."""
        a, b = plain(said), plain(gold)
        if WORDS.fullmatch(gold):
            return a.strip("()").casefold() == b.strip("()").casefold()
        (name, a), (wanted, b) = named(a), named(b)
        if name and wanted and name != wanted:
            return False
        if a.replace(" ", "") == b.replace(" ", ""):
            return True
        if BASED.fullmatch(b) and (BASED.fullmatch(a) or a.isalnum()):  # the judge knows no bases
            return a == b.split("_")[0]
        values = exact(a), exact(b)
        return self.judged(a, b) if None in values else values[0] == values[1]

    def judged(self, said: str, gold: str) -> bool | None:
        """What `math-verify` says of two answers."""
        return self._worker.ask([gold, said])

    def close(self) -> None:
        """End the process that judges, if there is one."""
        self._worker.close()


def named(text: str) -> tuple[str, str]:
    r"""A plain answer as name and value: x and 5 of "x=5", x and [1,2] of "x \in [1,2]"; the name may be ""."""
    match = re.fullmatch(r"\s*([a-zA-Z])\s*(?:=|\\in(?![a-zA-Z]))\s*([^=]+)", text)
    return (match[1], match[2]) if match else ("", text)

"""Instructions on the form of a text that can be checked by rule: the 25 kinds of IFEval (arXiv:2311.07911, table 1).

A check gets the text and the instruction's arguments, named as in the data. Sentences and capital words are counted by
rules of our own, where the original has those of NLTK; languages are told by `langdetect`, as there.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from octavo.core.errors import TaskError

Given = Mapping[str, Any]
Check = Callable[[str, Given], bool]

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
SHORTENED = r"\b(?:(?-i:[A-HJ-Z])|mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|inc|ltd|e\.g|i\.e|a\.m|p\.m|u\.s)$"
ENDS = re.compile(r"[.!?]+[\"'”’)\]*_]*(?=\s|$)|[。！？]+")


def sentences(text: str) -> int:
    """How many sentences there are: each ends with . ! ? or their like, a full stop of "Dr." or "J. Doe" not among
    them; the last one need not end.
    """  # fmt: skip
    count, begin = 0, 0
    for end in ENDS.finditer(text):
        before = text[begin : end.start()]
        if end[0] == "." and re.search(SHORTENED, before, re.IGNORECASE) and text[end.end() :].strip():
            continue
        count += bool(re.search(r"\w", before))
        begin = end.end()
    return count + bool(re.search(r"\w", text[begin:]))


def words(text: str) -> int:
    """How many words there are: runs of letters, digits and underscores."""
    return len(re.findall(r"\w+", text))


def language(text: str) -> str:
    """Code of the language a text is in; "" where that cannot be told. Raises TaskError without `langdetect`."""
    try:
        detector = import_module("langdetect")
    except ImportError as cause:
        raise TaskError("Telling languages needs langdetect: pip install 'octavo[ifeval]'.") from cause
    detector.DetectorFactory.seed = 0  # else each call draws anew
    try:
        return detector.detect(text)
    except detector.LangDetectException:
        return ""


def kept(count: int, relation: str, bound: int) -> bool:
    """Whether a count keeps to "at least" or "less than". Raises TaskError for another relation."""
    if relation not in ("at least", "less than"):
        raise TaskError(f"IFEval's data has the relation {relation!r}: it must be 'at least' or 'less than'.")
    return count >= bound if relation == "at least" else count < bound


def parts(text: str, mark: str) -> list[str] | None:
    """Parts of a text between marks, without an empty one at the beginning and at the end; None: another is empty."""
    found = [part.strip() for part in text.split(mark)]
    found = found[1 if not found[0] else 0 : len(found) - 1 if len(found) > 1 and not found[-1] else len(found)]
    return found if all(found) else None


def _every_word(text: str, given: Given) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in given["keywords"])


def _often(text: str, given: Given) -> bool:
    found = re.findall(re.escape(given["keyword"]), text, re.IGNORECASE)
    return kept(len(found), given["relation"], given["frequency"])


def _no_word(text: str, given: Given) -> bool:
    any_of = "|".join(map(re.escape, given["forbidden_words"]))
    return re.search(rf"(?<!\w)(?:{any_of})(?!\w)", text, re.IGNORECASE) is None


def _letters(text: str, given: Given) -> bool:
    return kept(text.lower().count(given["letter"].lower()), given["let_relation"], given["let_frequency"])


def _in_language(text: str, given: Given) -> bool:
    return language(text) in ("", given["language"])


def _sentences(text: str, given: Given) -> bool:
    return kept(sentences(text), given["relation"], given["num_sentences"])


def _words(text: str, given: Given) -> bool:
    return kept(words(text), given["relation"], given["num_words"])


def _paragraphs(text: str, given: Given) -> bool:
    found = parts(text, "***")
    return found is not None and len(found) == given["num_paragraphs"]


def _first_word(text: str, given: Given) -> bool:
    found = [part.strip() for part in text.split("\n\n") if part.strip()]
    place = given["nth_paragraph"]
    if len(found) != given["num_paragraphs"] or not 1 <= place <= len(found):
        return False
    first = re.findall(r"[^\s.,?!'\"]+", found[place - 1])
    return bool(first) and first[0].lower() == given["first_word"].lower()


def _placeholders(text: str, given: Given) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= given["num_placeholders"]


def _postscript(text: str, given: Given) -> bool:
    return bool(re.search(re.escape(given["postscript_marker"]).replace(r"\.", r"\.\s?"), text, re.IGNORECASE))


def _bullets(text: str, given: Given) -> bool:
    return len(re.findall(r"(?m)^\s*(?:\*[^*]|-).*$", text)) == given["num_bullets"]


def _highlights(text: str, given: Given) -> bool:
    found = re.findall(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*", text)
    return sum(bool((bold or plain).strip()) for bold, plain in found) >= given["num_highlights"]


def _sections(text: str, given: Given) -> bool:
    return len(re.findall(rf"{re.escape(given['section_spliter'])}\s?\d+", text)) >= given["num_sections"]


def _json(text: str, given: Given) -> bool:
    fenced = re.fullmatch(r"\s*```(?:json)?(.*)```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str, given: Given) -> bool:
    found = parts(text, "******")
    return found is not None and len(found) == 2 and found[0] != found[1]


def _repeated(text: str, given: Given) -> bool:
    return text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _end(text: str, given: Given) -> bool:
    return text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _capital_words(text: str, given: Given) -> bool:
    found = sum(word.isupper() for word in re.findall(r"\w+(?:[-.'’]\w+)*", text))
    return kept(found, given["capital_relation"], given["capital_frequency"])


CHECKS: dict[str, Check] = {
    "keywords:existence": _every_word,
    "keywords:frequency": _often,
    "keywords:forbidden_words": _no_word,
    "keywords:letter_frequency": _letters,
    "language:response_language": _in_language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, given: any(answer in text for answer in ANSWERS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text, given: bool(re.search(r"<<[^\n<>]*[^\s<>][^\n<>]*>>", text)),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeated,
    "startend:end_checker": _end,
    "startend:quotation": lambda text, given: bool(re.fullmatch(r'\s*".*"\s*', text, re.DOTALL)),
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, given: text.isupper() and language(text) in ("", "en"),
    "change_case:english_lowercase": lambda text, given: text.islower() and language(text) in ("", "en"),
    "punctuation:no_comma": lambda text, given: "," not in text,
}


def follows(text: str, kind: str, given: Given) -> bool:
    """Whether a text keeps to one instruction; an empty one keeps to none."""
    return bool(text.strip()) and CHECKS[kind](text, given)


def loosely(text: str) -> Sequence[str]:
    """A text without what models put around an answer: first line, last line, asterisks, in each combination."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(each.replace("*", "") for each in cut)]

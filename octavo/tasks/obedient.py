"""Texts that keep to instructions on their form and say nothing: what shows that those can be kept, and are checked."""

import json
from collections.abc import Callable, Iterator, Sequence

from octavo.tasks.verify.formats import ANSWERS, Given, follows

# To fill texts with: English as a detector of languages knows it; shorter ones for where letters are forbidden.
PHRASES = (
    "this is what the people of the old town wanted to say about their house and the garden behind it",
    "the weather was very good today and all of them went home",
    "why not",
    "hm",
)
Instruction = tuple[str, Given]


def obedient(instructions: Sequence[Instruction]) -> str:
    """A text that keeps to all instructions; "" where none was found."""
    for phrase in PHRASES:
        text = _written(dict(instructions), _body(instructions, phrase), phrase)
        if all(follows(text, kind, given) for kind, given in instructions):
            return text
    return ""


def _written(asked: dict[str, Given], body: str, phrase: str) -> str:
    if "detectable_format:json_format" in asked:
        return json.dumps({"text": body}, ensure_ascii=False)
    lines = [body, *_lines(asked, phrase)]
    if given := asked.get("length_constraints:nth_paragraph_first_word"):
        first = [phrase] * (given["num_paragraphs"] - 1)
        first.insert(given["nth_paragraph"] - 1, given["first_word"])
        lines = ["\n\n".join([*first[:-1], "\n".join([first[-1], *lines])])]
    if given := asked.get("length_constraints:number_paragraphs"):
        lines = ["\n***\n".join([phrase] * (given["num_paragraphs"] - 1) + ["\n".join(lines)])]
    if "combination:two_responses" in asked:
        lines += ["******", f"{phrase} too"]
    if given := asked.get("detectable_content:postscript"):
        lines.append(f"{given['postscript_marker']} {phrase}")
    if given := asked.get("startend:end_checker"):
        lines.append(given["end_phrase"])
    if given := asked.get("combination:repeat_prompt"):
        lines.insert(0, given["prompt_to_repeat"])
    text = "\n".join(lines)
    if "startend:quotation" in asked:
        text = f'"{text}"'
    if "change_case:english_lowercase" in asked:
        return text.lower()
    return text.upper() if "change_case:english_capital" in asked else text


def _body(instructions: Sequence[Instruction], phrase: str) -> str:
    """Words and sentences in one line, no more than are asked for."""
    said, sentences = [phrase], 1
    for kind, given in instructions:
        least = "at least" in given.values()
        if kind == "keywords:existence":
            said += given["keywords"]
        elif kind == "keywords:frequency" and least:
            said += [given["keyword"]] * given["frequency"]
        elif kind == "keywords:letter_frequency" and least:
            said.append(given["letter"] * given["let_frequency"])
        elif kind == "detectable_content:number_placeholders":
            said += ["[x]"] * given["num_placeholders"]
        elif kind == "change_case:capital_word_frequency" and least:
            said += ["OK"] * given["capital_frequency"]
        elif kind == "detectable_format:number_highlighted_sections":
            said += ["*x*"] * given["num_highlights"]
        elif kind == "length_constraints:number_words" and least:
            said += [phrase] * (given["num_words"] // len(phrase.split()) + 1)
        elif kind == "length_constraints:number_sentences" and least:
            sentences = given["num_sentences"]
    return ". ".join([*[phrase] * (sentences - 1), " ".join(said)])


def _lines(asked: dict[str, Given], phrase: str) -> Iterator[str]:
    """What has lines of its own."""
    if "detectable_format:title" in asked:
        yield f"<<{phrase}>>"
    if "detectable_format:constrained_response" in asked:
        yield ANSWERS[2]
    if given := asked.get("detectable_format:multiple_sections"):
        yield from (f"{given['section_spliter']} {i + 1}" for i in range(given["num_sections"]))
    if given := asked.get("detectable_format:number_bullet_lists"):
        yield from (f"* {phrase}" for _ in range(given["num_bullets"]))


# kind of instruction -> what spoils a text that keeps to it
SPOIL: dict[str, Callable[[str], str]] = {
    "punctuation:no_comma": lambda text: f"{text}, then",
    "startend:quotation": lambda text: text[1:],
    "startend:end_checker": lambda text: f"{text} or so",
    "change_case:english_lowercase": str.upper,
    "change_case:english_capital": str.lower,
    "detectable_format:json_format": lambda text: text[:-1],
    "detectable_format:title": lambda text: text.replace("<<", "<").replace(">>", ">"),
    "detectable_format:constrained_response": lambda text: text.replace("My answer", "It"),
    "detectable_format:number_bullet_lists": lambda text: f"{text}\n* one more",
    "detectable_format:number_highlighted_sections": lambda text: text.replace("*", ""),
    "detectable_format:multiple_sections": lambda text: text.replace(" 1", ""),
    "detectable_content:number_placeholders": lambda text: text.replace("[", "("),
    "detectable_content:postscript": lambda text: text.replace("P.", "Q."),
    "combination:two_responses": lambda text: text.replace("******", "*"),
    "combination:repeat_prompt": lambda text: f"Sure: {text}",
    "length_constraints:number_paragraphs": lambda text: f"{text}\n***\nanother",
    "length_constraints:nth_paragraph_first_word": lambda text: f"{text}\n\nanother",
}

"""Decisions: typed questions about some input, answered with probabilities. Source: openai-python's types (beta).

What the probabilities are, `octavo.serve.questions.decide` says. A predicate's is that of "true" against "false"; a
choice is the likeliest option, a score the mean level, numbered from 0; the confidence is the likeliest option's.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.messages import Message
from octavo.serve.bounds import most
from octavo.serve.dialects import items
from octavo.serve.errors import Refusal
from octavo.serve.questions import Choose
from octavo.serve.wire import read

PATH = "/v1/decisions"
MOST_QUESTIONS, MOST_OPTIONS = 400, 255
Parts = str | list[dict[str, Any]]


class Described(Struct):
    """An option of a choice."""

    value: str | bool
    description: str = ""


class Level(Struct):
    """A level of a score."""

    label: str
    description: str = ""


class Predicate(Struct, tag="predicate"):
    """How likely a statement is true."""

    instructions: Parts
    name: str | None = None


class Choice(Struct, tag="choice"):
    """One of some options."""

    instructions: Parts
    choices: list[Described]
    name: str | None = None


class Score(Struct, tag="score"):
    """One of some levels, which are in order."""

    instructions: Parts
    levels: list[Level]
    name: str | None = None


Question = Predicate | Choice | Score


class Request(Struct, kw_only=True):
    """The body of a request."""

    input: str | list[dict[str, Any]]
    questions: list[Question]
    model: str = ""
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None


def decode(body: bytes) -> tuple[Request, tuple[Message, ...], tuple[Choose, ...]]:
    """A request, its input as messages, and what is asked of the model. Raises Refusal naming the field."""
    request, _ = read(body, Request)
    most("questions", len(request.questions), MOST_QUESTIONS, unit="questions")
    if not request.questions or not request.input:
        raise Refusal("give some input and at least one question.", param="input" if request.questions else "questions")
    if isinstance(request.input, str):
        messages: tuple[Message, ...] = (Message(role="user", content=request.input),)
    else:
        given = [_readable(item, f"input[{i}]") for i, item in enumerate(request.input)]
        messages = items.messages(given, _refer)
    asked = tuple(_asked(question, f"questions[{i}]") for i, question in enumerate(request.questions))
    return request, messages, asked


def _refer(id: str) -> dict[str, Any]:
    raise Refusal(
        f"input refers to the item {id!r}: nothing is kept for decisions, give the item itself.", param="input"
    )


def _readable(item: dict[str, Any], at: str) -> dict[str, Any]:
    """An item whose parts are all text: JSON is shown as it is."""
    content = item.get("content")
    return {**item, "content": _texts(content, at)} if isinstance(content, list) else item


def _texts(parts: list[Any], at: str) -> list[Any]:
    return [{"type": "input_text", "text": _json(part.get("data"), at)}
            if isinstance(part, dict) and part.get("type") == "input_json" else part for part in parts]  # fmt: skip


def _json(value: Any, at: str) -> str:
    if not isinstance(value, dict | list):
        raise Refusal(f"{at}: an input_json part needs an object or a list as data.", param=at)
    return json.dumps(value, ensure_ascii=False)


def _asked(question: Question, at: str) -> Choose:
    given = question.instructions
    task = given if isinstance(given, str) else items.flat_text(_texts(given, at), at=f"{at}.instructions")
    match question:
        case Predicate():
            return Choose(f"{task}\n\nIs this statement true? Answer with true or false, and nothing else.", TRUTH)
        case Choice():
            options = _values([choice.value for choice in question.choices], f"{at}.choices")
            told = [choice.description for choice in question.choices]
        case Score():
            options = _values([level.label for level in question.levels], f"{at}.levels")
            told = [level.description for level in question.levels]
    lines = [f"- {text}{': ' + more if more else ''}" for text, more in zip(options, told, strict=True)]
    shown = "\n".join(lines)
    return Choose(f"{task}\n\nAnswer with one of these, word for word, and nothing else:\n{shown}", options)


TRUTH = ("true", "false")


def _values(values: Sequence[str | bool], at: str) -> tuple[str, ...]:
    """How the model is to spell them: as JSON where a text and a truth value look alike."""
    if not 2 <= len(values) <= MOST_OPTIONS:
        raise Refusal(f"{at} has {len(values)}: give 2 to {MOST_OPTIONS}.", param=at)
    if len({(type(value), value) for value in values}) < len(values) or "" in values:
        raise Refusal(f"{at} has one twice, or an empty one: each must be unique.", param=at)
    plain = tuple(value if isinstance(value, str) else json.dumps(value) for value in values)
    return plain if len({*plain}) == len(plain) else tuple(json.dumps(v, ensure_ascii=False) for v in values)


def body(request: Request, *, model: str, probabilities: Sequence[Sequence[float]], tokens: int,
         cached: int) -> dict[str, Any]:  # fmt: skip
    """The response."""
    answers = [_answer(q, p) for q, p in zip(request.questions, probabilities, strict=True)]
    usage = {"input_tokens": tokens, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
             "output_tokens": 0, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": tokens}  # fmt: skip
    return {"answers": answers, "model": model, "usage": usage}


def _answer(question: Question, probabilities: Sequence[float]) -> dict[str, Any]:
    best = max(range(len(probabilities)), key=lambda i: probabilities[i])
    head: dict[str, Any] = {"type": msgspec.to_builtins(question)["type"], "name": question.name}
    match question:
        case Predicate():
            return {**head, "probability": probabilities[0]}
        case Choice():
            values = [choice.value for choice in question.choices]
            each = [{"value": v, "probability": p} for v, p in zip(values, probabilities, strict=True)]
            return {**head, "choice": values[best], "confidence": probabilities[best], "probabilities": each}
        case Score():
            levels = enumerate(zip(question.levels, probabilities, strict=True))
            each = [{"label": level.label, "value": i, "probability": p} for i, (level, p) in levels]
            score = sum(i * p for i, p in enumerate(probabilities))
            return {**head, "score": score, "confidence": probabilities[best], "probabilities": each}

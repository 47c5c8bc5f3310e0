"""How much one request may ask for: every number and list of it, in one table and one function.

What a dialect's types leave open is closed here, before anything is admitted, and what the engine's process could
not be told is refused.
"""

from collections.abc import Iterable
from fractions import Fraction
from math import lcm
from typing import Any, TypeVar

import msgspec

from octavo.serve.errors import Refusal
from octavo.serve.job import Job

T = TypeVar("T")
MOST_REPLIES = 128  # n, and n times the prompts of one request
MOST_STOPS, STOP_CHARACTERS = 16, 1024
MOST_BIASES = 1024
MOST_LOGPROBS = 20
MOST_MESSAGES = 10_000
MOST_TOOLS, NAME_CHARACTERS = 256, 256
MOST_TOKENS = 1 << 31  # of a reply, or of its thinking
SCHEMA_BYTES, SCHEMA_DEPTH = 64 << 10, 64
TOOLS_BYTES = 1 << 20  # of all tools' parameters together
REGEX_CHARACTERS = 4096
MOST_CHOICES, CHOICE_CHARACTERS = 1024, 32 << 10
MULTIPLES = 100_000  # the grammar's states for multipleOf: 10 us each
METADATA_BYTES, MOST_METADATA = 32 << 10, 64
COUNTABLE = 10**15  # larger numbers are not told
DEPTH = 128  # of the JSON of a body
TEXT_CHARACTERS = 1024  # of the small texts beside messages: cache_salt, call ids


def bounded(job: Job) -> None:
    """Raise Refusal naming the field that asks for too much."""
    s = job.sampling
    most("messages", len(job.messages), MOST_MESSAGES, unit="messages")
    most("tools", len(job.tools), MOST_TOOLS, unit="tools")
    most("n", s.get("n") or 1, MOST_REPLIES, unit="replies")
    if job.prompts:
        most("prompt", job.replies, MOST_REPLIES, unit="replies to all prompts together")
    most("top_logprobs", s.get("logprobs") or 0, MOST_LOGPROBS, unit="tokens")
    most("logit_bias", len(s.get("logit_bias") or ()), MOST_BIASES, unit="tokens")
    most("thinking_budget", job.thinking.budget_tokens or 0, MOST_TOKENS, unit="tokens")
    texts("stop", s.get("stop") or (), count=MOST_STOPS, characters=STOP_CHARACTERS)
    if not isinstance(s.get("choice", ()), list | tuple):
        raise Refusal(f"choice is {str(s['choice'])[:40]!r}: give a list of texts.", param="choice")
    texts("choice", s.get("choice") or (), count=MOST_CHOICES, characters=CHOICE_CHARACTERS)
    most("choice", sum(map(len, s.get("choice") or ())), CHOICE_CHARACTERS, unit="characters")
    if isinstance(s.get("regex"), str):
        most("regex", len(s["regex"]), REGEX_CHARACTERS, unit="characters")
    if isinstance(s.get("schema"), dict):
        bounded_schema("schema", s["schema"])
    size_bytes = steps = 0
    for tool in job.tools:
        most("tools.name", len(tool.name), NAME_CHARACTERS, unit="characters")
        found = bounded_schema(f"tools.{tool.name}.parameters", tool.parameters)
        size_bytes, steps = size_bytes + found[0], steps + found[1]
    most("tools", size_bytes, TOOLS_BYTES, unit="bytes of parameters")
    most("tools", steps, MULTIPLES, unit="states for multipleOf")
    most("cache_salt", len(job.space), TEXT_CHARACTERS, unit="characters")
    sayable(job)


def sayable(value: T) -> T:
    """The value, if an engine's process can be told it. Raises Refusal for numbers and nesting beyond its wire."""
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, RecursionError, UnicodeEncodeError) as cause:
        raise Refusal(
            f"the request holds what cannot be passed on ({cause}): integers have 64 bits at most."
        ) from cause
    return value


def most(field: str, found: float, limit: int, *, unit: str) -> None:
    """Raise Refusal where there is more than the limit."""
    if found > limit:
        shown = f"{found:,}" if found < COUNTABLE else f"more than {COUNTABLE:,}"  # Python writes no longer ones
        raise Refusal(f"{field}: {shown} {unit}, at most {limit:,} are taken.", param=field, code="above_limit")


def texts(field: str, given: Iterable[Any], *, count: int, characters: int) -> None:
    """Raise Refusal for too many texts, one that is too long, or something that is no text."""
    given = tuple(given)
    most(field, len(given), count, unit="texts")
    for text in given:
        if not isinstance(text, str):
            raise Refusal(f"{field} holds {str(text)[:40]!r}, a text was needed.", param=field)
        most(field, len(text), characters, unit="characters in one text")


def bounded_schema(field: str, schema: Any) -> tuple[int, int]:
    """Size in bytes, and states for its multiples. Raises Refusal for a JSON schema that is too large or too deep."""
    depth(schema, SCHEMA_DEPTH, field=field)
    size_bytes = len(msgspec.json.encode(schema))
    most(field, size_bytes, SCHEMA_BYTES, unit="bytes")
    found = [Fraction(str(value)) for value in _multiples(schema)]
    if not found:
        return size_bytes, 0
    # Schemas that are combined need as many states as their common multiple has smallest units.
    unit = lcm(*(value.denominator for value in found))
    steps = [max(1, int(abs(value) * unit)) for value in found]
    most(f"{field}.multipleOf", sum(steps), MULTIPLES, unit="states")
    together = 1
    for step in steps:  # one after the other: the multiple of many large ones takes long
        together = lcm(together, step)
        most(f"{field}.multipleOf", together, MULTIPLES, unit="states")
    return size_bytes, sum(steps)


def _multiples(value: Any) -> Iterable[int | float]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            given = one.get("multipleOf")
            if isinstance(given, int | float) and not isinstance(given, bool):
                yield given
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def depth(value: Any, limit: int, *, field: str) -> None:
    """Raise Refusal for JSON that is nested deeper."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise Refusal(f"{field or 'the body'} is nested more than {limit} levels deep.", param=field, code="above_limit")


def bounded_metadata(metadata: Any) -> None:
    """Raise Refusal for notes of the client's own that are too many or too large."""
    if isinstance(metadata, dict):
        most("metadata", len(metadata), MOST_METADATA, unit="entries")
        most("metadata", len(msgspec.json.encode(metadata)), METADATA_BYTES, unit="bytes")

"""Tool calls as Qwen3-Coder and Qwen3.5 write them: a function's name, then each parameter's value as plain text.

<function=NAME>
<parameter=NAME>
VALUE
</parameter>
</function>
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo.core.messages import ToolCall, ToolSpec
from octavo.text.chat.calls import JsonCalls

BEGIN, END = "<function=", "</function>"
_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>\s*")
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?")
_CLOSED = re.compile(r"\n?</parameter>\s*(?=<parameter=|</function>)")  # another one is part of the value
_PYTHONS = {"True": "true", "False": "false", "None": "null"}  # so do templates write them


class XmlCalls(JsonCalls):
    """Calls of these tools. JSON is read as well: it is what a model writes where a call is forced on it."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self._kinds = {tool.name: _kinds_of(tool.parameters) for tool in tools}

    def read(self, body: str) -> ToolCall | None:
        """The call that a text is; None where it is none, or not whole."""
        found = _FUNCTION.match(body)
        if found is None:
            return super().read(body)
        name, at, values = found[1], found.end(), dict[str, str]()
        kinds = self._kinds.get(name, {})
        while begun := _PARAMETER.match(body, at):
            ended = _CLOSED.search(body, begun.end())
            if ended is None:
                return None
            values[begun[1]] = _value(body[begun.end() : ended.start()], kinds.get(begun[1], frozenset()))
            at = ended.end()
        if body[at:].strip() != END:
            return None
        pairs = (f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in values.items())
        return ToolCall(name=name, arguments=f"{{{', '.join(pairs)}}}")

    def unfinished(self, body: str) -> bool:
        """Whether what comes next may be within a value."""
        if body.lstrip().startswith(BEGIN):
            return not body.rstrip().endswith(END)
        return super().unfinished(body)


def _kinds_of(schema: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Of each parameter the types that it may have; none where the schema does not say."""
    properties = schema.get("properties")
    return {name: frozenset(_types(each)) for name, each in properties.items()} if isinstance(properties, dict) else {}


def _types(schema: Any) -> list[str]:
    if not isinstance(schema, dict):
        return []
    kinds = schema.get("type", [])
    found = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if isinstance(kind, str)]
    for name in ("anyOf", "oneOf"):
        choices = schema.get(name)
        found += [kind for each in choices for kind in _types(each)] if isinstance(choices, list) else []
    return found


def _value(text: str, kinds: frozenset[str]) -> str:
    """A value's text as JSON. What may be text is text; where no type is told, objects and lists alone are read."""
    spelled = _PYTHONS.get(text.strip(), text.strip())
    read = spelled.startswith(("{", "[")) if not kinds else "string" not in kinds
    if read or (spelled == "null" and "null" in kinds):
        try:
            msgspec.json.decode(spelled)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return json.dumps(text, ensure_ascii=False)
        return spelled
    return json.dumps(text, ensure_ascii=False)

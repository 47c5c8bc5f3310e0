"""What a model wrote as a tool call -> `ToolCall`."""

from typing import Any, Protocol

import msgspec
from msgspec import Struct

from octavo.core.messages import ToolCall


class _Written(Struct):
    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: Any = ""  # some models write null or a number: it is not what makes a call


def read_call(body: str, *, needs_arguments: bool = False) -> ToolCall | None:
    """The call that a JSON object describes; None where it is no JSON or no call.

    Reads {"name": text, "arguments" or "parameters": object or absent}; the arguments stay as they were written. An
    object that is itself written as a JSON string is taken out of it. needs_arguments: their absence is no call.
    """
    try:
        written = msgspec.json.decode(body.strip(), type=_Written)
        given = written.parameters if written.arguments is msgspec.UNSET else written.arguments
        arguments = "null" if given is msgspec.UNSET else bytes(given).decode()
        if arguments.startswith('"'):
            arguments = msgspec.json.decode(arguments, type=str).strip()
            msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    absent = arguments == "null"
    if not written.name or (absent and needs_arguments) or not (absent or arguments.startswith("{")):
        return None
    id = written.id if isinstance(written.id, str) else ""
    return ToolCall(name=written.name, arguments="{}" if absent else arguments, id=id)


class ObjectScan:
    """Follows a JSON object character by character.   inside: the last character was within a string"""

    def __init__(self) -> None:
        self.inside = False
        self._escaped, self._depth = False, 0

    def push(self, char: str) -> bool:
        """Whether this character closes the object."""
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = self.inside
        elif char == '"':
            self.inside = not self.inside
        elif not self.inside and char in "{}":
            self._depth += 1 if char == "{" else -1
            return self._depth == 0
        return False


def inside_string(body: str) -> bool:
    """Whether a piece of JSON ends within a string."""
    scan = ObjectScan()
    for char in body:
        scan.push(char)
    return scan.inside


class CallReader(Protocol):
    """How what stands between the tags of a call is read."""

    def read(self, body: str) -> ToolCall | None:
        """The call that a text is; None where it is none, or not whole."""
        ...

    def unfinished(self, body: str) -> bool:
        """Whether what comes next may be within a value."""
        ...


class JsonCalls:
    """Calls are JSON objects."""

    def read(self, body: str) -> ToolCall | None:
        """As `read_call`."""
        return read_call(body)

    def unfinished(self, body: str) -> bool:
        """Whether it ends within a string."""
        return inside_string(body)

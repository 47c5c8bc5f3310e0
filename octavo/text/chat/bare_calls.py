"""Replies whose tool calls are bare JSON objects without tags around them: Llama 3."""

from collections.abc import Iterator

import msgspec

from octavo.core.messages import ToolCall
from octavo.text.chat.calls import ObjectScan, read_call
from octavo.text.chat.parser import Event, Piece, Scanner, Tag, Tags

_BETWEEN = " \t\r\n;,"  # what models write between two calls


class BareCallParser:
    """A reply that begins with a JSON object, or has one after the opening tag, may be a call.

    It is one where it has a name and parameters; else it is text, exactly as it was written. All else is text.
    """

    def __init__(self, tags: Tags, *, tools: bool) -> None:
        self._tags, self._tools = tags.spelled(), tools
        self._scanner = Scanner(self._tags if tools else {})
        self._prefix = ""  # the opening tag, kept in case that what follows is no call
        self._holding, self._held = tools, ""  # text that may be a call
        self._scan: ObjectScan | None = None
        self._scanned = 0
        self._calls = 0

    def feed(self, text: str, *, literal: bool = False) -> Iterator[Event]:
        """More text. literal: it holds no tags, they come by `mark`."""
        if literal:
            yield from self._text(self._scanner.finish() + text)
            return
        for piece, tag in self._scanner.push(text):
            yield from self._text(piece) if tag is None else self._tag(tag)

    def mark(self, tag: Tag) -> Iterator[Event]:
        """A tag that was recognised by its token."""
        yield from self._text(self._scanner.finish())
        yield from self._tag(tag)

    def finish(self) -> Iterator[Event]:
        """What was held back: an object that never closed is text."""
        yield from self._text(self._scanner.finish())
        if self._holding and not (self._calls and not self._prefix and not self._held.strip(_BETWEEN)):
            yield from self._give_up()

    def _tag(self, tag: Tag) -> Iterator[Event]:
        if tag != "tool_open" or not self._tools:
            yield from self._text(self._tags[tag])
            return
        if self._holding:
            yield from self._give_up()
        self._holding, self._prefix = True, self._tags[tag]

    def _text(self, text: str) -> Iterator[Event]:
        if self._holding:
            self._held += text
            more = self._next()
            while more is not None:
                yield from more
                more = self._next() if self._holding else None
        elif text:
            yield Piece(text)

    def _next(self) -> list[Event] | None:
        """The next call, or the decision that there is none; None: more text is needed."""
        if self._scan is None:
            body = self._held[self._scanned :].lstrip(_BETWEEN if self._calls else " \t\r\n")
            self._scanned = len(self._held) - len(body)
            if not body:
                return None
            if body[0] != "{":
                return list(self._give_up())
            self._scan = ObjectScan()
        for at in range(self._scanned, len(self._held)):
            if self._scan.push(self._held[at]):
                return list(self._close(at + 1))
        self._scanned = len(self._held)
        return None

    def _close(self, end: int) -> Iterator[Event]:
        call = read_call(self._held[:end].lstrip(_BETWEEN), needs_arguments=True)
        if call is None:
            yield from self._give_up()
            return
        yield self._numbered(call)
        self._held, self._prefix, self._scan, self._scanned = self._held[end:], "", None, 0

    def _numbered(self, call: ToolCall) -> ToolCall:
        number, self._calls = self._calls, self._calls + 1
        return call if call.id else msgspec.structs.replace(call, id=f"call_{number}")

    def _give_up(self) -> Iterator[Event]:
        text = self._prefix + self._held
        self._holding, self._held, self._prefix, self._scan, self._scanned = False, "", "", None, 0
        if text:
            yield Piece(text)

"""A model's reply, as it streams -> thinking, text and tool calls."""

import re
from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from octavo.core.messages import ToolCall
from octavo.text.chat.calls import CallReader, JsonCalls

Tag = Literal["think_open", "think_close", "tool_open", "tool_close"]


class Tags(Struct, frozen=True, kw_only=True):
    """Literals around thinking and tool calls; None where the format has none."""

    think_open: str | None = None
    think_close: str | None = None
    tool_open: str | None = None
    tool_close: str | None = None

    def spelled(self) -> dict[Tag, str]:
        """Those that the format has."""
        names: tuple[Tag, ...] = ("think_open", "think_close", "tool_open", "tool_close")
        return {name: text for name in names if (text := getattr(self, name)) is not None}


class Piece(Struct, frozen=True):
    """More text of the reply. An empty piece of thinking says that there was a thinking block with nothing in it."""

    text: str
    thinking: bool = False


Event = Piece | ToolCall


class ReplyParser(Protocol):
    """Reads one reply. Joined, the events do not depend on how the text was cut into pieces."""

    def feed(self, text: str, *, literal: bool = False) -> Iterator[Event]:
        """More text. literal: it holds no tags, they come by `mark`; else tags are looked for in the text itself."""
        ...

    def mark(self, tag: Tag) -> Iterator[Event]:
        """A tag that was recognised by its token."""
        ...

    def finish(self) -> Iterator[Event]:
        """The end of the reply: what was held back."""
        ...


class Scanner:
    """Finds tags in text that comes in pieces; holds back only what may be the beginning of one."""

    def __init__(self, tags: dict[Tag, str]) -> None:
        self._names: dict[str, Tag] = {text: name for name, text in tags.items()}
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or "(?!)")
        self._beginnings = {text[:i] for text in self._names for i in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._held = ""

    def push(self, text: str) -> Iterator[tuple[str, Tag | None]]:
        """(text, None) for text and (literal, tag) for tags, in order."""
        text = self._held + text
        done = 0
        for match in self._pattern.finditer(text):
            if match.start() > done:
                yield text[done : match.start()], None
            yield match[0], self._names[match[0]]
            done = match.end()
        rest = text[done:]
        sizes = range(min(self._longest, len(rest)), 0, -1)
        keep = next((size for size in sizes if rest[-size:] in self._beginnings), 0)
        self._held = rest[len(rest) - keep :]
        if len(rest) > keep:
            yield rest[: len(rest) - keep], None

    def finish(self) -> str:
        """What was held back; the scanner is then as new."""
        held, self._held = self._held, ""
        return held


class PendingCall:
    """A tool call that is not finished: its text from the opening tag on, and where in it a call may begin."""

    LIMIT = 8  # tags within one call; more are text, so that no reply costs quadratic time

    def __init__(self, opening: str, calls: CallReader) -> None:
        self.text, self.calls = opening, calls
        self.begins = [len(opening)]
        self.starts = [0]  # of the opening tags themselves
        self.closings = 0

    def reopen(self, opening: str) -> None:
        """Another opening tag: the call may as well begin here."""
        self.starts.append(len(self.text))
        self.text += opening
        self.begins.append(len(self.text))

    def read(self) -> tuple[str, str, ToolCall] | None:
        """(text before the call, the call's own text with its opening tag, the call), the longest that is one."""
        for start, begin in zip(self.starts, self.begins, strict=True):
            call = self.calls.read(self.text[begin:])
            if call is not None:
                return self.text[:start], self.text[start:], call
        return None

    @property
    def unfinished(self) -> bool:
        """Whether a tag that comes now may be part of a value."""
        return self.calls.unfinished(self.text[self.begins[-1] :])

    @property
    def crowded(self) -> bool:
        """Whether there are more tags in it than one call should have."""
        return self.closings >= self.LIMIT or len(self.begins) >= self.LIMIT


class TagParser:
    """Thinking and calls between tags.

    - Newlines at both ends of the thinking and after it, and white space around calls, belong to the tags.
    - What `calls` cannot read is text, exactly as it was written, and the calls beside it are calls all the same.
    - A call inside thinking counts where the thinking is never closed; else it was only thought of.
    - Without `tools`, and where the format has no such tag, tags are text.
    """

    def __init__(self, tags: Tags, *, thinking_open: bool, tools: bool, calls: CallReader = JsonCalls()) -> None:
        self._tags, self._tools, self._reader = tags.spelled(), tools, calls
        self._scanner = Scanner(self._tags)
        self._thinking = thinking_open
        self._repeatable = thinking_open  # some models write the opening tag though the prompt ended with it
        self._strip = "\n" if thinking_open else ""  # what to leave out at the beginning of what comes next
        self._blank = ""  # white space that is dropped if a tag follows
        self._said = False  # text of the present block came out
        self._answered = False  # the answer has text or calls
        self._after_call = False  # nothing but white space since the last call
        self._pending: PendingCall | None = None
        self._drafts: list[str | tuple[str, ToolCall]] = []  # calls in open thinking, and what was written since
        self._calls = 0

    def feed(self, text: str, *, literal: bool = False) -> Iterator[Event]:
        """More text. literal: it holds no tags, they come by `mark`."""
        if literal:
            yield from self._text(self._scanner.finish() + text)
            return
        for piece, tag in self._scanner.push(text):
            yield from self._text(piece) if tag is None else self._tag(tag, exact=False)

    def mark(self, tag: Tag) -> Iterator[Event]:
        """A tag that was recognised by its token."""
        yield from self._text(self._scanner.finish())
        yield from self._tag(tag, exact=True)

    def finish(self) -> Iterator[Event]:
        """What was held back. Unclosed thinking stays thinking; a call without its closing tag counts if whole."""
        yield from self._text(self._scanner.finish())
        if self._pending is not None:
            yield from self._resolve(self._pending)
        drafts, self._drafts = self._drafts, []
        for draft in drafts:
            if isinstance(draft, str):
                yield from self._say(draft)
            else:
                yield self._numbered(draft[1])
        if self._blank and not self._after_call:
            yield Piece(self._blank, self._thinking)
        elif self._thinking and not self._said:
            yield Piece("", thinking=True)
        self._blank = ""

    def _text(self, text: str) -> Iterator[Event]:
        if not text:
            return
        if self._pending is not None:
            self._pending.text += text
        elif self._drafts:
            self._drafts.append(text)
        else:
            yield from self._say(text)

    def _say(self, text: str) -> Iterator[Event]:
        """Text as text, less the white space that may belong to a tag."""
        text = self._blank + text
        if not self._said:
            text = text.lstrip(self._strip) if self._strip else text
        ends_with = "\n" if self._thinking else None if self._tools or not self._answered else ""
        kept = text.rstrip(ends_with)
        self._blank = text[len(kept) :]
        if kept:
            self._said, self._after_call = True, False
            self._answered = self._answered or not self._thinking
            yield Piece(kept, self._thinking)

    def _tag(self, tag: Tag, *, exact: bool) -> Iterator[Event]:
        if tag == "think_close" and self._thinking:
            yield from self._close_thinking()
        elif tag == "think_open" and self._opens_thinking(exact=exact):
            yield from self._open_thinking()
        elif tag == "tool_open" and self._tools:
            yield from self._open_call()
        elif tag == "tool_close" and self._pending is not None:
            yield from self._close_call(self._pending)
        else:
            yield from self._text(self._tags[tag])

    def _opens_thinking(self, *, exact: bool) -> bool:
        if self._pending is not None or self._drafts:
            return False
        if self._thinking:
            return self._repeatable and not self._said
        return exact or not self._answered

    def _open_thinking(self) -> Iterator[Event]:
        if self._blank and self._answered:
            yield Piece(self._blank)
        self._thinking, self._repeatable = True, False
        self._blank, self._strip, self._said = "", "\n", False

    def _close_thinking(self) -> Iterator[Event]:
        """Calls that were begun or made while thinking were only thought of."""
        drafts, self._drafts = self._drafts, []
        yield from self._say("".join(draft if isinstance(draft, str) else draft[0] for draft in drafts))
        if self._pending is not None:
            pending, self._pending = self._pending, None
            yield from self._say(pending.text)
        if not self._said:
            yield Piece("", thinking=True)
        self._thinking, self._repeatable = False, False
        self._blank, self._strip, self._said = "", "\n", False

    def _open_call(self) -> Iterator[Event]:
        opening = self._tags["tool_open"]
        if self._pending is None:
            self._pending = PendingCall(opening, self._reader)
            return
        if self._pending.crowded or self._pending.read() is not None:
            yield from self._resolve(self._pending)
            self._pending = PendingCall(opening, self._reader)
        else:
            self._pending.reopen(opening)

    def _close_call(self, pending: PendingCall) -> Iterator[Event]:
        """A closing tag within a value may be part of the value: then it is read on."""
        closing = self._tags["tool_close"]
        if pending.read() is None and pending.unfinished and not pending.crowded:
            pending.text += closing
            pending.closings += 1
        else:
            yield from self._resolve(pending, closing)

    def _resolve(self, pending: PendingCall, closing: str = "") -> Iterator[Event]:
        """The pending text as a call, or as text."""
        self._pending = None
        found = pending.read()
        if found is None:
            yield from self._text(pending.text + closing)
            return
        before, written, call = found
        yield from self._text(before)
        if self._thinking:
            self._drafts += [self._blank, (written + closing, call)]
            self._blank = ""
        else:
            yield self._numbered(call)

    def _numbered(self, call: ToolCall) -> ToolCall:
        """The call with an id, and the white space around it left out."""
        number, self._calls = self._calls, self._calls + 1
        self._blank, self._after_call = "", True
        if not self._thinking:
            self._strip = "" if self._said else " \t\r\n"
            self._answered = True
        return call if call.id else msgspec.structs.replace(call, id=f"call_{number}")

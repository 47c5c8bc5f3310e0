"""What the user sees: a terminal with an answer that grows in place, or plain text in a pipe."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from octavo.cli.clean import clean
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, ToolCallDelta, Usage


class Answer(Protocol):
    """One answer being shown."""

    @property
    def thinking(self) -> bool:
        """Whether the model is thinking at the moment."""
        ...

    def add(self, delta: Delta) -> None:
        """Take note of a delta."""
        ...

    def hint(self, text: str) -> None:
        """Say what the next Ctrl-C does."""
        ...

    def wait_s(self) -> float:
        """Seconds until `draw` has something to do."""
        ...

    def draw(self) -> None:
        """Show what came since the last time."""
        ...

    def close(self, finished: Finished | None) -> None:
        """Leave the answer in its last form. finished: None where it was left behind."""
        ...


class Screen(Protocol):
    """Where a conversation is shown. interactive: a person sits at it."""

    interactive: bool

    def note(self, text: str) -> None:
        """Show one remark."""
        ...

    def lines(self, texts: Sequence[str]) -> None:
        """Show lines that belong together."""
        ...

    def error(self, text: str) -> None:
        """Show what went wrong."""
        ...

    def answer(self) -> Answer:
        """Begin an answer."""
        ...


class PlainAnswer:
    """Text as it comes, without the thinking and without any escape sequence."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.thinking, self.at_line_start = out, False, True

    def add(self, delta: Delta) -> None:
        """Write what is text; control characters are made harmless."""
        self.thinking = isinstance(delta, ThinkingDelta)
        if isinstance(delta, ToolCallDelta):
            self._write(f"\n[call {delta.call.name}({delta.call.arguments})]")
        elif isinstance(delta, TextDelta):
            self._write(delta.text)

    def hint(self, text: str) -> None:
        """A pipe gets no hints."""

    def wait_s(self) -> float:
        """Nothing moves by itself here, so as long as it takes (seconds)."""
        return 60.0

    def draw(self) -> None:
        """All that came is written already."""

    def close(self, finished: Finished | None) -> None:
        """End the line."""
        if not self.at_line_start:
            self._write("\n")

    def _write(self, text: str) -> None:
        shown = clean(text)
        if shown:
            self.at_line_start = shown.endswith("\n")
            self.out.write(shown)
            self.out.flush()


class PlainScreen:
    """Answers go to stdout, everything else to stderr."""

    interactive = False

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout

    def note(self, text: str) -> None:
        """One remark."""
        self.lines([text])

    def lines(self, texts: Sequence[str]) -> None:
        """Several lines that belong together."""
        for text in texts:
            print(clean(text), file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """What went wrong."""
        print(f"octavo: {clean(text)}", file=sys.stderr, flush=True)

    def answer(self) -> PlainAnswer:
        """Begin an answer."""
        return PlainAnswer(self.out)


class SilentAnswer(PlainAnswer):
    """An answer that is kept and not shown."""

    def _write(self, text: str) -> None:
        del text


class SilentScreen(PlainScreen):
    """Shows no answer: for output that is printed once it is whole."""

    def answer(self) -> PlainAnswer:
        """Begin an answer."""
        return SilentAnswer(self.out)


def stopped(finished: Finished | None, *, typed: bool) -> str:
    """Why an answer is shorter than it might be; "" for one that ended by itself.   typed: as for `open_screen`"""
    if finished is None or finished.reason == "cancelled":
        kept = " What there is of the answer stays in the conversation; /retry answers once more."
        return "Stopped." + (kept if typed else "")
    if finished.reason != "length":
        return ""
    budget, limit = ("/budget N", "/set max_tokens") if typed else ("--budget N", "--max-tokens N")
    said = finished.message
    if (finished.usage.thinking_tokens or said.thinking) and not (said.text or said.tool_calls):
        return f"All tokens went into thinking: {budget} leaves some for the answer, {limit} allows more."
    room = "/clear makes" if typed else "a shorter prompt leaves"
    return f"The limit of tokens is reached: {limit} allows more, {room} room in the context."


def footer(usage: Usage, context_tokens: int) -> str:
    """Speeds and sizes of one answer. Cached tokens were not read again, and forced ones were not chosen."""
    read = usage.prompt_tokens - usage.cached_tokens
    drawn = usage.completion_tokens - usage.forced_tokens - 1  # the first one comes with the prompt
    cached = f" ({usage.cached_tokens:,} of them cached)" if usage.cached_tokens else ""
    used = usage.prompt_tokens + usage.completion_tokens
    parts = [
        f"prompt {usage.prompt_tokens:,} tokens{cached}{_rate(read, usage.prefill_s)}",
        f"generated {usage.completion_tokens:,} tokens{_rate(drawn, usage.decode_s)}",
        f"first token after {usage.prefill_s:.2f} s",
        f"context {used:,}" + (f" of {context_tokens:,} ({used / context_tokens:.1%})" if context_tokens > 0 else ""),
    ]
    return " · ".join(parts)


def _rate(tokens: int, seconds: float) -> str:
    if tokens <= 0 or seconds <= 0:
        return ""
    rate = tokens / seconds
    return f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.1f}/s"


def thought(seconds: float, tokens: int, *, stop: str | None = None) -> str:
    """The line that stands for thinking that is over."""
    why = {"budget": ", ended by the budget", "user": ", ended by you"}.get(stop or "", "")
    return f"thought for {seconds:.1f} s, {tokens:,} token{'' if tokens == 1 else 's'}{why}"


def open_screen(clock: Callable[[], float] = time.monotonic, *, typed: bool = True) -> Screen:
    """The screen that stdout allows; typed: what is said comes from stdin, so that has to be a terminal too."""
    from os import environ

    terminal = sys.stdout.isatty() and environ.get("TERM", "dumb") not in ("dumb", "")
    terminal = terminal and (sys.stdin.isatty() or not typed)
    if not terminal:
        return PlainScreen()
    from octavo.cli.terminal import TerminalScreen

    return TerminalScreen(sys.stdout, clock=clock)

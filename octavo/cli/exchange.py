"""One request and its answer: the model computes in a thread of its own, so that Ctrl-C and the screen are served."""

import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType

from msgspec import Struct

from octavo.cli.screen import Answer, Screen
from octavo.core.chat import Reply
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, ToolCallDelta
from octavo.core.errors import OctavoError
from octavo.core.messages import Message, ToolCall

YIELD_S = 0.005  # what the computing thread leaves the reply's lock free for, while Ctrl-C waits for it


class Ended(Struct, frozen=True):
    """The reply is over; error: why it broke off."""

    error: OctavoError | None = None


class Pressed(Struct, frozen=True):
    """Ctrl-C was pressed."""


class Outcome(Struct, frozen=True, kw_only=True):
    """finished: None where the reply was left behind before it said that it stopped; message: what there is of it."""

    message: Message
    finished: Finished | None
    interrupted: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was said."""
        return not (self.message.text or self.message.thinking or self.message.tool_calls)


class Running:
    """A reply in its own thread; as a context, one that is left before its end is cancelled."""

    def __init__(self, begin: Callable[[], Reply]) -> None:
        self.inbox: SimpleQueue[Delta | Ended | Pressed] = SimpleQueue()
        self.reply: Reply | None = None
        self.cancelled = self.wanted = self.over = False
        Thread(target=self._work, args=(begin,), daemon=True).start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *problem: object) -> None:
        if not self.over:
            self.cancel()

    def take(self, timeout_s: float) -> Delta | Ended | Pressed | None:
        """What comes next; None where nothing did within `timeout_s` seconds."""
        try:
            item = self.inbox.get(timeout=timeout_s) if timeout_s > 0 else self.inbox.get_nowait()
            self.over = self.over or isinstance(item, Ended)
            return item
        except Empty:
            return None

    def cancel(self) -> None:
        """Stop the reply, also one that has not begun yet."""
        self.cancelled = True
        self._order(lambda reply: reply.cancel())

    def end_thinking(self) -> None:
        """Go on to the answer."""
        self._order(lambda reply: reply.end_thinking())

    def _order(self, order: Callable[[Reply], None]) -> None:
        self.wanted = True
        try:
            if self.reply is not None:
                order(self.reply)
        finally:
            self.wanted = False

    def _work(self, begin: Callable[[], Reply]) -> None:
        error = None
        try:
            self.reply = begin()
            if self.cancelled:
                self.reply.cancel()
            for delta in self.reply:
                self.inbox.put(delta)
                if self.wanted:
                    time.sleep(YIELD_S)
        except OctavoError as cause:
            error = cause
        finally:
            self.inbox.put(Ended(error))


def exchange(begin: Callable[[], Reply], screen: Screen) -> Outcome:
    """Show a reply as it comes. Ctrl-C ends the thinking, then the answer, then stops waiting for its end.

    begin: starts the reply; runs in another thread. Raises the OctavoError with which the reply broke off.
    """
    running, answer, told = Running(begin), screen.answer(), _Told()
    item = None
    with _presses(running.inbox), running:
        while not isinstance(item := running.take(answer.wait_s()), Ended):
            if isinstance(item, Pressed):
                if not _press(running, answer, told):
                    break
            elif item is not None:
                told.add(item)
                answer.add(item)
            answer.draw()
        answer.close(told.finished)
    if isinstance(item, Ended):
        _check(item, told.finished)
    return Outcome(message=told.message(), finished=told.finished, interrupted=told.interrupted)


class _Told:
    """What came so far."""

    def __init__(self) -> None:
        self.text, self.thinking, self.calls = "", "", list[ToolCall]()
        self.finished: Finished | None = None
        self.interrupted = self.thinking_ended = False

    def add(self, delta: Delta) -> None:
        match delta:
            case TextDelta():
                self.text += delta.text
            case ThinkingDelta():
                self.thinking += delta.text
            case ToolCallDelta():
                self.calls.append(delta.call)
            case Finished():
                self.finished = delta

    def message(self) -> Message:
        if self.finished:
            return self.finished.message
        return Message(
            role="assistant", content=self.text, thinking=self.thinking or None, tool_calls=tuple(self.calls)
        )


def _press(running: Running, answer: Answer, told: _Told) -> bool:
    """What a press of Ctrl-C does now; False: stop waiting for a reply that does not stop."""
    if running.cancelled:
        return False
    if answer.thinking and not told.thinking_ended:
        told.thinking_ended = True
        running.end_thinking()
        answer.hint("going on to the answer; Ctrl-C stops")
    else:
        told.interrupted = True
        running.cancel()
        answer.hint("stopping; Ctrl-C once more does not wait")
    return True


def _check(ended: Ended, finished: Finished | None) -> None:
    if ended.error is not None:
        raise ended.error
    if finished is None:
        raise OctavoError("The answer broke off because of an error in Octavo itself, which stands above. The "
                          "conversation is kept: /retry asks once more, /save FILE keeps it.")  # fmt: skip


@contextmanager
def _presses(inbox: "SimpleQueue[Delta | Ended | Pressed]") -> Generator[None]:
    """Ctrl-C goes to `inbox`, and keys are not echoed into the answer; they are there for the next prompt."""

    def on_press(number: int, frame: FrameType | None) -> None:
        inbox.put(Pressed())

    before = signal.signal(signal.SIGINT, on_press)
    try:
        with _no_echo():
            yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _no_echo() -> Generator[None]:
    import sys

    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    quiet = termios.tcgetattr(handle)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(handle, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSANOW, before)

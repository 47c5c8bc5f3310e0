"""One request and its answer: the model computes in the thread that loaded it; another one draws and hears Ctrl-C.

Not the other way round: OpenMP keeps a team of threads for each thread that computes, and two teams on the same cores
hinder each other.
"""

import signal
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock
from types import FrameType
from typing import Literal

from msgspec import Struct

from octavo.cli.screen import Answer, Screen
from octavo.core.chat import Reply
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, ToolCallDelta
from octavo.core.messages import Message, ToolCall

YIELD_S = 0.005  # how long the reply's own lock is left free, while Ctrl-C waits for it


class Outcome(Struct, frozen=True, kw_only=True):
    """finished: None where the reply was left behind before it said that it stopped; message: what there is of it."""

    message: Message
    finished: Finished | None
    interrupted: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was said."""
        return not (self.message.text or self.message.thinking or self.message.tool_calls)


def exchange(begin: Callable[[], Reply], screen: Screen) -> Outcome:
    """Show a reply as it comes. Ctrl-C ends the thinking, then the answer, then stops waiting for its end.

    begin: starts the reply. Raises the OctavoError with which the reply broke off.
    """
    running = _Running(screen.answer())
    with running.pressed_by_ctrl_c(), _no_echo():
        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(running.draw)
            try:
                running.follow(begin)
            finally:
                running.inbox.put("over")
        drawing.result()  # raises what went wrong there
    return running.outcome()


class _Running:
    """A reply and what came of it so far."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.lock = answer, Lock()  # the lock is for `answer`
        self.inbox: SimpleQueue[Literal["press", "over"]] = SimpleQueue()
        self.reply: Reply | None = None
        self.text, self.thinking, self.calls = "", "", list[ToolCall]()
        self.finished: Finished | None = None
        self.following = self.thinking_ended = self.cancelled = self.wanted = False

    def follow(self, begin: Callable[[], Reply]) -> None:
        """Compute to the end, in the caller's thread; or until Ctrl-C is pressed although the reply is to stop."""
        self.following = True
        try:
            self.reply = begin()
            if self.cancelled:
                self.reply.cancel()
            for delta in self.reply:
                with self.lock:
                    self._add(delta)
                if self.wanted:
                    time.sleep(YIELD_S)
        except KeyboardInterrupt:
            self.cancelled = True
        finally:
            self.following = False
            with self.lock:
                self.answer.close(self.finished)

    def draw(self) -> None:
        """Draw and obey Ctrl-C until all is over, in a thread of its own."""
        while (item := self._take()) != "over":
            if item == "press":
                self._obey()
            with self.lock:
                self.answer.draw()

    def outcome(self) -> Outcome:
        """What there is."""
        message = self.finished.message if self.finished else Message(
            role="assistant", content=self.text, thinking=self.thinking or None, tool_calls=tuple(self.calls)
        )  # fmt: skip
        return Outcome(message=message, finished=self.finished, interrupted=self.cancelled)

    @contextmanager
    def pressed_by_ctrl_c(self) -> Generator[None]:
        """Ctrl-C comes to us."""

        def on_press(number: int, frame: FrameType | None) -> None:
            if self.cancelled and self.following:
                raise KeyboardInterrupt
            self.inbox.put("press")

        before = signal.signal(signal.SIGINT, on_press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self) -> Literal["press", "over"] | None:
        try:
            return self.inbox.get(timeout=self.answer.wait_s())
        except Empty:
            return None

    def _obey(self) -> None:
        """End the thinking where there is any, else the answer."""
        ends_thinking = self.answer.thinking and not self.thinking_ended
        with self.lock:
            self.answer.hint("going on to the answer; Ctrl-C stops" if ends_thinking
                             else "stopping; Ctrl-C once more does not wait")  # fmt: skip
        self.thinking_ended = self.thinking_ended or ends_thinking
        self.cancelled = self.cancelled or not ends_thinking
        if self.reply is None:
            return
        self.wanted = True
        try:
            if ends_thinking:
                self.reply.end_thinking()
            else:
                self.reply.cancel()
        finally:
            self.wanted = False

    def _add(self, delta: Delta) -> None:
        match delta:
            case TextDelta():
                self.text += delta.text
            case ThinkingDelta():
                self.thinking += delta.text
            case ToolCallDelta():
                self.calls.append(delta.call)
            case Finished():
                self.finished = delta
        self.answer.add(delta)


@contextmanager
def _no_echo() -> Generator[None]:
    """Keys pressed meanwhile are not echoed into the answer; they are there for the next prompt."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    handle = sys.stdin.fileno()
    before, quiet = termios.tcgetattr(handle), termios.tcgetattr(handle)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(handle, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSANOW, before)

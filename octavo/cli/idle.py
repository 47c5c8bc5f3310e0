"""What a model does while nobody waits for it.

It computes in another thread than for replies, so that keys are answered at once. That thread has a team of OpenMP
threads of its own, but the two never compute at the same time: replies begin when it has ended.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Protocol, runtime_checkable

from octavo.core.chat import Chat


@runtime_checkable
class Idles(Protocol):
    """A chat that can prepare the next turn: `LocalChat` is one."""

    def idle(self) -> bool:
        """Do a little of it; False: there is no more to do."""
        ...


@contextmanager
def idling(chat: Chat) -> Generator[None]:
    """Meanwhile, as while the user types, the model prepares the next turn in a thread. It ends with what it is at."""
    if not isinstance(chat, Idles):
        yield
        return
    over = Event()
    with ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(_prepare, chat, over)
        try:
            yield
        finally:
            over.set()
    preparing.result()  # raises what went wrong there


def _prepare(chat: Idles, over: Event) -> None:
    while not over.is_set() and chat.idle():
        pass

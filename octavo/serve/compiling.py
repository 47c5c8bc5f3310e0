"""What takes long beside the engine's work: grammars compiled, long prompts cut, questions answered.

In threads of their own, where the interpreter's lock is free, and with a deadline: nobody else waits.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Semaphore, Thread

from octavo.chat.local import LocalChat
from octavo.core.errors import OctavoError, RequestError
from octavo.serve import link
from octavo.serve.answers import Prepared, answer, characters
from octavo.serve.job import Job

DEADLINE_S = 5.0
AT_ONCE = 4
LOOK_S = 0.002  # how often the engine's thread looks, where it has nothing else to do
LONG, MANY = 20_000, 300  # characters; messages
SHAPES = ("schema", "regex", "choice")
Outcome = Callable[[], Prepared]


def takes_long(job: Job) -> bool:
    """Whether preparing it may hold up others: a grammar has to be compiled, or a long prompt cut into tokens."""
    shaped = bool(job.tools) or any(job.sampling.get(name) for name in SHAPES)
    return shaped or len(job.messages) > MANY or characters(job) > LONG


class Compiler:
    """Prepares jobs in threads. All its methods are called by one thread, the engine's."""

    def __init__(self, work: Callable[[Job], Prepared], *, deadline_s: float = DEADLINE_S) -> None:
        self.work, self.deadline_s = work, deadline_s
        self.begun: dict[str, float] = {}  # id -> when
        self.found = deque[tuple[str, Outcome]]()  # filled by the threads
        self.seats = Semaphore(AT_ONCE)

    @property
    def wait_s(self) -> float | None:
        """How long the engine's thread may sleep."""
        return LOOK_S if self.begun else None

    def begin(self, id: str, job: Job) -> None:
        """Prepare a job; it comes out of `done`."""
        self.begun[id] = time.monotonic()
        Thread(target=self._prepare, args=(id, job), daemon=True).start()

    def drop(self, id: str) -> bool:
        """Nobody wants it any more. Whether it was being prepared."""
        return self.begun.pop(id, None) is not None

    def done(self) -> list[tuple[str, Outcome]]:
        """Jobs that are prepared, or cannot be: their outcome gives what was prepared, or raises why not."""
        if not self.begun:
            self.found.clear()  # what was dropped
            return []
        ended = list[tuple[str, Outcome]]()
        while self.found:
            ended.append(self.found.popleft())
        late_s = time.monotonic() - self.deadline_s
        ended += [(id, self._late) for id, begun_s in self.begun.items() if begun_s < late_s]
        return [(id, outcome) for id, outcome in ended if self.drop(id)]

    def _prepare(self, id: str, job: Job) -> None:
        with self.seats:
            try:
                made = self.work(job)
            except OctavoError as cause:
                self.found.append((id, partial(_refuse, cause)))
            else:
                self.found.append((id, lambda: made))

    def _late(self) -> Prepared:
        late = f"the grammar was not compiled within {self.deadline_s:g} s: simplify the schema or the regex."
        return _refuse(RequestError(late))


class Clerk:
    """Answers questions, one after the other, in a thread."""

    def __init__(self, chat: LocalChat, tell: Callable[[link.Answer], None]) -> None:
        self.chat, self.tell = chat, tell
        self.asked: SimpleQueue[link.Question] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def begin(self, question: link.Question) -> None:
        """Answer it when its turn comes."""
        self.asked.put(question)

    def _work(self) -> None:
        while True:
            self.tell(answer(self.chat, self.asked.get()))


def _refuse(why: OctavoError) -> Prepared:
    raise why

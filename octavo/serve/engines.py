"""The gateway's side of an engine's process: it is started, spoken to, missed when it dies, and started again."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import msgspec

from octavo.serve import events, link
from octavo.serve.errors import Refusal
from octavo.serve.job import Job
from octavo.serve.stream import Stream

RESTART_S = (0.0, 1.0, 5.0, 15.0)  # waits before the first, second ... restart in a row
STEADY_S = 60.0  # a process that lived so long counts as well again
State = Literal["cold", "loading", "ready", "failed"]
Listener = Callable[["LocalModel"], None]


class LocalModel:
    """One model in a process of its own.

    state     cold: no process; loading; ready; failed: it could not be loaded, `problem` says why
    facts     what the model can do, once it was loaded;   stats, step_age_s   of the engine, from its last beat
    changed   called when the state changes
    """

    def __init__(self, opening: link.Open, *, changed: Listener) -> None:
        self.opening, self.changed = opening, changed
        self.name = opening.name
        self.state: State = "cold"
        self.problem = ""
        self.facts: dict[str, Any] = {}
        self.stats: dict[str, float] = {}
        self.step_age_s, self.beat_s = 0.0, 0.0
        self.streams: dict[str, Stream] = {}
        self.questions: dict[str, asyncio.Future[link.Answer]] = {}
        self.used_s = time.monotonic()
        self.process: asyncio.subprocess.Process | None = None
        self.transport: asyncio.Transport | None = None
        self.loaded: asyncio.Future[None] | None = None
        self.numbers, self.falls, self.started_s = count(), 0, 0.0

    async def start(self) -> None:
        """Load the model, unless it is loaded. Raises Refusal where it cannot be."""
        if self.loaded is None:
            self.loaded = asyncio.get_running_loop().create_future()
            self._set("loading")
            await self._spawn()
        await asyncio.shield(self.loaded)
        if self.state != "ready":
            raise Refusal(f"{self.name} cannot be loaded: {self.problem}", kind="server_error")

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self.started_s = time.monotonic()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "octavo.serve.host", stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.connect_accepted_socket(lambda: _Ear(self), ours)
        self._order(self.opening)

    async def stop(self) -> None:
        """End the process, now."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def submit(self, id: str, job: Job) -> Stream:
        """Have a job done; its events come in the stream."""
        self.used_s = time.monotonic()
        stream = Stream(
            id, stop=lambda id: self._order(link.Cancel(id)), end_thinking=lambda id: self._order(link.EndThinking(id))
        )
        if self.state != "ready":
            stream.push(events.Error(f"{self.name} is not ready: try again in a moment.", "overloaded"))
            return stream
        self.streams[id] = stream
        self._order(link.Submit(id, job))
        return stream

    async def ask(self, what: Any, about: Any) -> Any:
        """The answer to a question (see `link.Question`). Raises Refusal."""
        await self.start()
        self.used_s = time.monotonic()
        id = f"q{next(self.numbers)}"
        self.questions[id] = asyncio.get_running_loop().create_future()
        self._order(link.Question(id, what, msgspec.to_builtins(about)))
        answer = await self.questions[id]
        if answer.error:
            raise Refusal(answer.error, kind=answer.kind or "server_error")
        return answer.value

    @property
    def busy(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self.streams or self.questions)

    def heard(self, word: link.Word) -> None:
        """What the process said."""
        match word:
            case link.Frame():
                for id, event in word.events:
                    stream = self.streams.get(id)
                    if stream is not None:
                        stream.push(event)
                        if stream.done:
                            del self.streams[id]
            case link.Beat():
                self.step_age_s, self.stats, self.beat_s = word.step_age_s, word.stats, time.monotonic()
            case link.Answer():
                self.questions.pop(word.id).set_result(word)
            case link.Ready():
                self.facts, self.beat_s = word.facts, time.monotonic()
                self._set("ready")
                self._settle()
            case link.Failed():
                self.problem = word.message
                self._set("failed")
                self._settle()

    def lost(self) -> None:
        """The process is gone: whoever waits for it is told, and it is started again if it was well before."""
        was, self.transport = self.state, None
        message = f"{self.name} stopped in the middle of its work and is started again: ask again."
        for stream in self.streams.values():
            stream.push(events.Error(message, "server_error"))
        self.streams = {}
        for id, future in self.questions.items():
            future.set_result(link.Answer(id, None, message, "server_error"))
        self.questions = {}
        if was == "loading":
            self.problem = "its process ended while it loaded the model."
            self._set("failed")
        elif was == "ready":
            self._set("cold")
        self._settle()
        self.loaded = None if self.state == "cold" else self.loaded

    def _settle(self) -> None:
        if self.loaded is not None and not self.loaded.done():
            self.loaded.set_result(None)

    def _set(self, state: State) -> None:
        self.state = state
        self.changed(self)

    def _order(self, order: link.Order) -> None:
        if self.transport is not None:
            self.transport.write(link.framed(order))


class _Ear(asyncio.Protocol):
    """Hears what the process says."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.unframer: link.Unframer[link.Word] = link.Unframer(link.Word)

    def data_received(self, data: bytes) -> None:
        for word in self.unframer.push(data):
            self.model.heard(word)

    def connection_lost(self, exc: Exception | None) -> None:
        self.model.lost()

"""The gateway's side of an engine's process: it is started, spoken to, missed when it dies, and started again."""

import asyncio
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Literal

import msgspec

from octavo.serve import events, link
from octavo.serve.bounds import sayable
from octavo.serve.errors import Refusal
from octavo.serve.job import Job
from octavo.serve.stream import Stream
from octavo.weights.memory import LIMIT, PACKED

State = Literal["cold", "loading", "ready", "failed"]
Listener = Callable[[Any], None]  # is given the model


class LocalModel:
    """One model in a process of its own.

    state     cold: no process; loading; ready; failed: it could not be loaded, `problem` says why
    facts     what the model can do, once it was loaded;   stats, step_age_s   of the engine, from its last beat
    wanted    whether it is to be there: it was asked for and not let go
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
        self.ear: _Ear | None = None  # of the present process; those of earlier ones are not listened to any more
        self.loaded: asyncio.Future[None] | None = None
        self.numbers, self.falls, self.started_s = count(), 0, 0.0
        self.wanted = self.short_of_memory = False

    async def start(self, *, memory_bytes: int | None = None, reloads: bool = False) -> None:
        """Load the model, unless it is loaded, and wait; `state` says how that ended.

        memory_bytes   that its process may take, None: no limit but the machine's
        reloads        its files change: what was packed of them once is not what they say now
        """
        if self.loaded is None:
            self.loaded, self.wanted = asyncio.get_running_loop().create_future(), True
            self._set("loading")
            limits = {} if memory_bytes is None else {LIMIT: str(memory_bytes)}
            try:
                self.ear = None
                await self.stop()  # one that could not load the model may not have left yet
                await self._spawn(limits | ({PACKED: "memory"} if reloads else {}))
            except BaseException:  # whoever asked may leave meanwhile: the next to ask starts it anew
                await self.leave()
                raise
        await asyncio.shield(self.loaded)

    @property
    def loads(self) -> bool:
        """Whether it is loaded."""
        return self.state == "ready"

    def forget(self) -> None:
        """That it could not be loaded: it may be tried again."""
        self.state, self.loaded, self.short_of_memory = "cold", None, False

    async def leave(self) -> None:
        """Let go: cold from now on, whoever waits for it is told, and its process ends."""
        self.wanted, self.ear = False, None
        self.lost()
        self.forget()
        await self.stop()

    def resident_bytes(self) -> int:
        """Memory that its process has now; 0 without one."""
        if self.process is None or self.process.returncode is not None:
            return 0
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()

    async def _spawn(self, more: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self.started_s = time.monotonic()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "octavo.serve.host", stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **more},
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        ear = self.ear = _Ear(self)
        self.transport, _ = await loop.connect_accepted_socket(lambda: ear, ours)
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
        if self.state != "ready":
            raise Refusal(f"{self.name} is not ready: try again in a moment.", kind="overloaded", retry_after_s=1.0)
        self.used_s = time.monotonic()
        id = f"q{next(self.numbers)}"
        about = sayable(msgspec.to_builtins(about))
        self.questions[id] = asyncio.get_running_loop().create_future()
        self._order(link.Question(id, what, about))
        try:
            answer = await self.questions[id]
        except asyncio.CancelledError:
            del self.questions[id]
            self._order(link.Cancel(id))
            raise
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
                for id in word.began:
                    if id in self.streams:
                        self.streams[id].began()
                for id, event in word.events:
                    stream = self.streams.get(id)
                    if stream is not None:
                        stream.push(event)
                        if stream.done:
                            del self.streams[id]
            case link.Beat():
                self.step_age_s, self.stats, self.beat_s = word.step_age_s, word.stats, time.monotonic()
            case link.Answer():
                self._answered(word)
            case link.Ready():
                self.facts, self.beat_s = word.facts, time.monotonic()
                self.used_s = self.beat_s
                self._set("ready")
                self._settle()
            case link.Failed():
                self.problem, self.short_of_memory, self.wanted = word.message, word.memory, False
                self._set("failed")
                self._settle()

    def lost(self) -> None:
        """The process is gone: whoever waits for it is told, and it is started again if it was well before."""
        was, self.transport = self.state, None
        message = f"{self.name} stopped in the middle of its work and is started again: ask again."
        for stream in self.streams.values():
            stream.push(events.Error(message, "server_error"))
        self.streams = {}
        for id in list(self.questions):
            self._answered(link.Answer(id, None, message, "server_error"))
        if was == "loading":
            self.problem, self.wanted = "its process ended while it loaded the model.", False
            self._set("failed")
        self._settle()
        if was == "ready":
            self.loaded = None
            self._set("cold")

    def _answered(self, answer: link.Answer) -> None:
        future = self.questions.pop(answer.id, None)
        if future is not None and not future.done():  # else nobody waits for it any more
            future.set_result(answer)

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
            if self.model.ear is self:
                self.model.heard(word)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.model.ear is self:
            self.model.lost()

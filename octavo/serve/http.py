"""One job over HTTP: decoded, admitted, done, written; cancelled when the client goes away."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.serve import events
from octavo.serve.errors import Refusal
from octavo.serve.gate import Gate, Tenant, Ticket
from octavo.serve.job import Job
from octavo.serve.models import Models
from octavo.serve.stream import Collected, Ending, Stream
from octavo.serve.wire import KEEP_ALIVE, Asked, Head, Writer

KEEP_ALIVE_S = 15.0
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                  "x-accel-buffering": "no"}  # fmt: skip
T = TypeVar("T")
ErrorBody = Callable[[Refusal, str], Any]


class Dialect(NamedTuple):
    """A wire.   error   the JSON value of a refusal, given the request's id"""

    name: str
    path: str
    decode: Callable[[bytes], Asked]
    error: ErrorBody


def openai_error(refusal: Refusal, request_id: str) -> Any:
    """As OpenAI's API has it."""
    return {"error": {"message": str(refusal), "type": refusal.kind, "param": refusal.param or None,
                      "code": refusal.code or None}}  # fmt: skip


def id_of(request: Request) -> str:
    """The request's id: what the guard calls it in the log and in `x-request-id`; a new one where none was met."""
    return request.scope.setdefault("request_id", uuid.uuid4().hex)


def refused(refusal: Refusal, *, request_id: str, error: ErrorBody = openai_error) -> Response:
    """The response to a request that is not done."""
    body = msgspec.json.encode(error(refusal, request_id))
    headers = {**refusal.headers(), "x-request-id": request_id}
    return Response(body, status_code=refusal.status, headers=headers, media_type="application/json")


def as_json(value: Any, *, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type="application/json")


@dataclass(eq=False, slots=True)
class Doing:
    """A job that is being done, for live control and for metrics."""

    stream: Stream
    ticket: Ticket
    tenant: Tenant
    job: Job
    dialect: str
    started_s: float
    first_s: float = 0.0  # when the first token came
    queued_s: float = 0.0  # how long it waited at the gate
    last_s: float = 0.0  # when the last batch came


class Watch(Protocol):
    """Sees every job begin and end: metrics, logs, traces."""

    def began(self, doing: Doing) -> None:
        """A job was given to an engine."""
        ...

    def refused(self, kind: str) -> None:
        """The gate let a job not in.   kind   as in `errors.STATUS`"""
        ...

    def gap(self, doing: Doing, seconds: float) -> None:
        """Between two batches of a job's events. Called for every token: take a microsecond."""
        ...

    def ended(self, doing: Doing, usage: events.Usage, *, finish: str) -> None:
        """It is over."""
        ...


class Desk:
    """Has jobs done: the one way from a dialect to an engine and back.   doing: by request id"""

    def __init__(self, models: Models, gate: Gate, watches: Sequence[Watch] = ()) -> None:
        self.models, self.gate, self.watches = models, gate, tuple(watches)
        self.doing: dict[str, Doing] = {}
        self.waiting = 0  # at the gate
        self.rests = set[asyncio.Task[None]]()

    async def begin(self, asked: Asked, tenant: Tenant, *, dialect: str, request_id: str) -> Doing:
        """Admit a job and give it to its engine; back when its first event is there. Raises Refusal."""
        model = self.models.find(asked.job.model)
        job = msgspec.structs.replace(asked.job, model=model.name, space=tenant.within(asked.job.space))
        came_s = time.perf_counter()
        ticket = await self.enter(tenant, job, dialect=dialect, request_id=request_id)
        queued_s = time.perf_counter() - came_s
        try:
            await self.models.start(model)
        except BaseException:
            ticket.settle(events.Usage(), finish="error")
            raise
        job = msgspec.structs.replace(job, patient=ticket.patient)
        stream = model.submit(request_id, job)
        doing = Doing(stream, ticket, tenant, job, dialect, time.perf_counter(), queued_s=queued_s)
        stream.began = ticket.began
        self.doing[request_id] = doing
        for watch in self.watches:
            watch.began(doing)
        try:
            await doing.stream.first()
            await ticket.kept()
        except BaseException:
            self.end(doing, Ending(replies=job.replies))
            raise
        return doing

    async def enter(self, tenant: Tenant, job: Job, *, dialect: str, request_id: str) -> Ticket:
        """Wait at the gate. Raises Refusal."""
        self.waiting += 1
        try:
            return await self.gate.enter(tenant, job, dialect=dialect, request_id=request_id)
        except Refusal as refusal:
            for watch in self.watches:
                watch.refused(refusal.kind)
            raise
        finally:
            self.waiting -= 1

    def saw(self, doing: Doing, batch: Sequence[events.Event]) -> None:
        """A batch on its way to the client: note when the first and the last tokens came."""
        now_s = time.perf_counter()
        if doing.first_s:
            for watch in self.watches:
                watch.gap(doing, now_s - doing.last_s)
        elif any(not isinstance(one, events.Start) for one in batch):
            doing.first_s = now_s
            doing.ticket.began()
        doing.last_s = now_s

    def end(self, doing: Doing, ending: Ending) -> None:
        """Nobody listens any more. Where the engine is not at its end, what it used is known when it has stopped."""
        doing.stream.cancel()
        del self.doing[doing.stream.id]
        if doing.stream.done:
            self._settle(doing, ending)
        else:
            rest = asyncio.ensure_future(self._rest(doing, ending))
            self.rests.add(rest)
            rest.add_done_callback(self.rests.discard)

    async def rested(self) -> None:
        """Wait until all that was begun is settled. The engines have stopped."""
        if self.rests:
            await asyncio.wait(self.rests, timeout=KEEP_ALIVE_S)

    async def _rest(self, doing: Doing, ending: Ending) -> None:
        async for batch in doing.stream:
            ending.add(batch)
        self._settle(doing, ending)

    def _settle(self, doing: Doing, ending: Ending) -> None:
        ending.add(doing.stream.held)
        finish = "error" if ending.error else "cancelled" if "cancelled" in ending.reasons else ending.reasons[0]
        doing.ticket.settle(ending.usage, finish=finish)
        for watch in self.watches:
            watch.ended(doing, ending.usage, finish=finish)


class Endpoint:
    """One dialect's endpoint."""

    def __init__(self, desk: Desk, dialect: Dialect) -> None:
        self.desk, self.dialect = desk, dialect

    async def answer(self, request: Request) -> Response:
        """Do what the request asks."""
        request_id = id_of(request)
        try:
            tenant = self.desk.gate.identify(request.headers)
            asked = self.decode(await request.body(), tenant)
            doing = await self._begin(request, asked, tenant, request_id=request_id)
        except Refusal as refusal:
            return refused(refusal, request_id=request_id, error=self.dialect.error)
        head = Head(request_id, int(time.time()), self.desk.models.find(asked.job.model).name)
        headers = {"x-request-id": request_id, **doing.ticket.headers}
        if asked.ignored:
            headers["x-ignored-fields"] = printable(", ".join(asked.ignored))
        writer = asked.writer(head)
        if asked.stream:
            return Streamed(self.desk, doing, writer, headers=headers)
        return await self._whole(request, doing, writer, headers=headers)

    def decode(self, body: bytes, tenant: Tenant) -> Asked:
        """The request of a tenant. Raises Refusal."""
        return self.dialect.decode(body)

    async def _begin(self, request: Request, asked: Asked, tenant: Tenant, *, request_id: str) -> Doing:
        begin = self.desk.begin(asked, tenant, dialect=self.dialect.name, request_id=request_id)
        return await unless_gone(request.receive, begin)

    async def _whole(self, request: Request, doing: Doing, writer: Writer, *,
                     headers: dict[str, str]) -> Response:  # fmt: skip
        collected = Collected(replies=doing.job.replies)

        async def collect() -> None:
            async for batch in doing.stream:
                self.desk.saw(doing, batch)
                collected.add(batch)

        try:
            await unless_gone(request.receive, collect())
        finally:
            self.desk.end(doing, collected)
        await doing.ticket.kept()
        if collected.error is not None:
            error = collected.error
            failed = Refusal(error.message, kind=error.kind, code=error.code, retry_after_s=error.retry_after_s)
            return refused(failed, request_id=doing.stream.id, error=self.dialect.error)
        return as_json(writer.whole(collected), headers=headers)


def printable(text: str) -> str:
    """Text as it may stand in a header: no line of its own, nothing beyond ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:1000])


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result; the work is cancelled, and ClientDisconnect raised, where the client goes away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class Streamed(Response):
    """A response written as its events come. It ends early where the client goes away, and the engine then stops."""

    def __init__(self, desk: Desk, doing: Doing, writer: Writer, *, headers: dict[str, str]) -> None:
        super().__init__(headers={**STREAM_HEADERS, **headers})
        del self.headers["content-length"]
        self.desk, self.doing, self.writer = desk, doing, writer
        self.ending, self.ended = Ending(replies=doing.job.replies), False
        self.sent_s = time.perf_counter()  # infinite while a piece is being sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        watcher = asyncio.ensure_future(_gone(receive))
        watcher.add_done_callback(lambda task: None if task.cancelled() else self.doing.stream.cancel())
        ticker = asyncio.ensure_future(self._keep_alive(send))
        try:
            while batch := await self.doing.stream.next():
                if not self.ended:
                    self.desk.saw(self.doing, batch)
                self.ending.add(batch)
                data = self.writer.write(batch)
                if self.doing.stream.done:
                    self._end()
                if data:
                    self.sent_s = math.inf
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    self.sent_s = time.perf_counter()
        finally:
            watcher.cancel()
            ticker.cancel()
            self._end()
        await self.doing.ticket.kept()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _end(self) -> None:
        """The job is over, though its client may not have read all of it yet: it holds up nobody else."""
        if not self.ended:
            self.ended = True
            self.desk.end(self.doing, self.ending)

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            if self.doing.stream.done:
                self._end()
            elif time.perf_counter() - self.sent_s >= KEEP_ALIVE_S:
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

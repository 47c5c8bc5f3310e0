"""Every job comes to its end, and every model to a state that it can be asked in, whoever leaves when."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from octavo.core.messages import Message
from octavo.serve import events, http
from octavo.serve.app import DIALECTS
from octavo.serve.gate import OpenGate, OpenTicket, Tenant
from octavo.serve.http import Desk, Doing, Streamed
from octavo.serve.job import Job
from octavo.serve.link import Open
from octavo.serve.models import Care, Models
from octavo.serve.remotes import RemoteModel
from octavo.serve.stream import Collected, Stream
from octavo.serve.wire import Head
from tests.serve.knocking import BODY
from tests.serve.mini import mini_qwen3

JOB = Job(model="far", messages=(Message(role="user", content="Why?"),), sampling={"n": 2})
FIRST = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
LAST = b'data: {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}\n\n'


def far(content: Any) -> RemoteModel:
    model = RemoteModel("far", "http://far/v1#m", changed=lambda _: None)
    answers = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    model.client = httpx.AsyncClient(base_url=model.url, transport=answers)
    return model


async def rest_of(stream: Stream) -> Collected:
    told = Collected(replies=2)
    async for batch in stream:
        told.add(batch)
    return told


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_cancelled_job_of_a_remote_ends(when: str):
    async def endless() -> AsyncIterator[bytes]:
        yield FIRST
        await asyncio.sleep(1000)

    async def cut() -> Collected:
        model = far(endless())
        stream = model.submit("j", JOB)
        while when == "later" and len(stream.held) < 3:
            await asyncio.sleep(0.001)
        stream.cancel()
        told = await asyncio.wait_for(rest_of(stream), 5)
        assert not model.busy
        await model.stop()
        return told

    told = asyncio.run(cut())
    assert told.error is None and told.reasons == [{"at once": "cancelled", "later": "stop"}[when], "cancelled"]
    assert isinstance(told.events[-1], events.Usage)


def test_a_fault_while_a_remote_is_read_ends_the_job_with_an_error(monkeypatch: pytest.MonkeyPatch):
    def wrong(job: Job) -> Any:
        raise KeyError("a bug")

    async def fail() -> Collected:
        model = far(FIRST)
        monkeypatch.setattr(model, "_asked", wrong)
        return await asyncio.wait_for(rest_of(model.submit("j", JOB)), 5)

    told = asyncio.run(fail())
    assert told.error is not None and told.error.kind == "server_error" and "bug" not in told.error.message


def test_what_a_remote_counts_fits_into_the_ledger():
    async def ask() -> Collected:
        usage = b'data: {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1%s}}\n\n' % (b"0" * 40)
        return await asyncio.wait_for(rest_of(far(FIRST + LAST + usage).submit("j", JOB)), 5)

    used = asyncio.run(ask()).usage
    assert used.prompt_tokens == 0 and 1 << 40 < used.completion_tokens < 1 << 60


# Models


def some() -> Models:
    return Models([Open(str(mini_qwen3()), "mini")], care=Care(memory_bytes=1_500_000_000, reloads=True))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_whoever_leaves_while_a_cold_model_starts_leaves_it_startable(steps: int):
    async def ask() -> None:
        models = some()
        model = models.find("mini")
        begun = asyncio.ensure_future(models.start(model))
        for _ in range(steps):
            await asyncio.sleep(0)
        begun.cancel()
        await asyncio.wait((begun,))
        try:
            await asyncio.wait_for(models.start(model), 60)
            assert model.state == "ready"
        finally:
            await models.close()

    asyncio.run(ask())


def test_a_model_that_is_let_go_is_not_ready_while_its_process_ends():
    async def ask() -> None:
        models = some()
        model = models.locals[0]
        try:
            await models.start(model)
            stream = model.submit("j", Job(model="mini", messages=JOB.messages, sampling={"max_tokens": 500}))
            going = asyncio.ensure_future(models.reload("mini"))
            await asyncio.sleep(0)
            assert model.state == "cold"
            await asyncio.wait_for(models.start(model), 60)  # in that gap
            await going
            assert model.state == "ready" and not model.busy
            assert isinstance((await stream.next())[-1], events.Error)
        finally:
            await models.close()

    asyncio.run(ask())


# Clients that do not read


class Noting(OpenTicket):
    """Notes when the job is settled."""

    settled_s = 0.0

    def settle(self, usage: events.Usage, *, finish: str) -> None:
        """Now."""
        self.settled_s = time.monotonic()


@pytest.mark.parametrize("late", [False, True], ids=["the last piece is stuck", "an earlier one is"])
def test_a_client_that_does_not_read_holds_no_place(late: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.1)

    async def ask() -> tuple[float, int]:
        asked = DIALECTS[0].decode(http.msgspec.json.encode({**BODY, "stream": True}))
        stream, ticket = Stream("j", stop=lambda _: None, end_thinking=lambda _: None), Noting()
        desk, stuck, pieces = Desk(some(), OpenGate()), asyncio.Event(), list[bytes]()
        doing = desk.doing["j"] = Doing(stream, ticket, Tenant(), asked.job, "chat", 0.0)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await stuck.wait()
                pieces.append(message["body"])

        response = Streamed(desk, doing, asked.writer(Head("j", 0, "mini")), headers={})
        stream.push(events.Start())
        stream.push(events.Text("a"))
        if not late:
            stream.push(events.Finish("stop"))
            stream.push(events.Usage())
        task = asyncio.ensure_future(response({}, asyncio.Event().wait, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        for event in (events.Text("b"), events.Finish("stop"), events.Usage()):
            stream.push(event)
        await asyncio.sleep(0.3)
        settled_s = ticket.settled_s
        stuck.set()
        await task
        assert ticket.settled_s == settled_s and not desk.doing
        return settled_s, b"".join(pieces).count(b"[DONE]")

    settled_s, ends = asyncio.run(ask())
    assert settled_s and ends == 1

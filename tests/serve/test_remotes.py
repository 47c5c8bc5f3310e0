"""A model that runs elsewhere: its endpoint's stream becomes events, whatever it holds and however it is cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from octavo.core.messages import Message
from octavo.serve.errors import Refusal
from octavo.serve.job import Job
from octavo.serve.remotes import RemoteModel
from octavo.serve.stream import Collected

TEXT = "a\u2028b\u2029c\x85d 猫"  # line ends of Unicode that JSON may hold as they are
JOB = Job(model="far", messages=(Message(role="user", content="Why?"),))


def pieces(size: int) -> Iterator[bytes]:
    chunks = [{"choices": [{"delta": {"content": TEXT}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    stream = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks).encode()
    yield from (stream[i : i + size] for i in range(0, len(stream), size))


async def asked(size: int, job: Job = JOB, *, octavo: bool = False) -> tuple[Collected, list[dict[str, Any]]]:
    """What a job comes to at an endpoint whose stream comes in pieces of so many bytes, and what that was asked."""
    bodies: list[dict[str, Any]] = []

    async def cut() -> AsyncIterator[bytes]:
        for piece in pieces(size):
            yield piece

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=cut())

    model = RemoteModel("far", "http://far/v1#m", changed=lambda _: None)
    model.client = httpx.AsyncClient(base_url=model.url, transport=httpx.MockTransport(answer))
    model.octavo = octavo
    told = Collected(replies=1)
    async for batch in model.submit("j", job):
        told.add(batch)
    await model.stop()
    return told, bodies


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_text_arrives_as_it_was_said(size: int):
    told, _ = asyncio.run(asked(size))
    assert told.error is None and told.replies[0].text == TEXT


BEGUN = (*JOB.messages, Message(role="assistant", content="Because"))
GOES_ON = msgspec.structs.replace(JOB, messages=BEGUN, resume=True)


def test_a_message_is_gone_on_with_where_that_can_be_asked_and_refused_elsewhere():
    told, bodies = asyncio.run(asked(1000, GOES_ON, octavo=True))
    assert told.error is None and bodies[0]["continue_final_message"] is True
    told, bodies = asyncio.run(asked(1000, GOES_ON))
    assert told.error is not None and told.error.kind == "invalid_request_error" and not bodies


@pytest.mark.parametrize("octavo", [True, False])
def test_log_probabilities_are_refused_and_not_left_out(octavo: bool):
    told, bodies = asyncio.run(asked(1000, msgspec.structs.replace(JOB, sampling={"logprobs": 1}), octavo=octavo))
    assert told.error is not None and "log-probabilities" in told.error.message and not bodies


async def hurried() -> None:
    model = RemoteModel("far", "http://far/v1#m", changed=lambda _: None)
    try:
        model.submit("j", JOB).end_thinking()
    finally:
        await model.stop()


def test_who_ends_thinking_elsewhere_is_told_that_it_goes_on():
    with pytest.raises(Refusal, match=r"cannot be ended from here"):
        asyncio.run(hurried())


async def refused(body: dict[str, Any]) -> Collected:
    model = RemoteModel("far", "http://far/v1#m", changed=lambda _: None)
    answer = httpx.Response(400, json={"error": body})
    model.client = httpx.AsyncClient(base_url=model.url, transport=httpx.MockTransport(lambda _: answer))
    told = Collected(replies=1)
    async for batch in model.submit("j", JOB):
        told.add(batch)
    await model.stop()
    return told


@pytest.mark.parametrize(("code", "passed"), [("context_length_exceeded", "context_length_exceeded"), ("own", "")])
def test_clients_learn_that_a_prompt_is_too_long_elsewhere(code: str, passed: str):
    error = asyncio.run(refused({"message": "too much", "code": code})).error
    assert error is not None and error.kind == "invalid_request_error"
    assert error.code == passed and "too much" in error.message

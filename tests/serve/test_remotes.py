"""A model that runs elsewhere: its endpoint's stream becomes events, whatever it holds and however it is cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from octavo.core.messages import Message
from octavo.serve.job import Job
from octavo.serve.remotes import RemoteModel
from octavo.serve.stream import Collected

TEXT = "a\u2028b\u2029c\x85d 猫"  # line ends of Unicode that JSON may hold as they are
JOB = Job(model="far", messages=(Message(role="user", content="Why?"),))


def pieces(size: int) -> Iterator[bytes]:
    chunks = [{"choices": [{"delta": {"content": TEXT}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    stream = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks).encode()
    yield from (stream[i : i + size] for i in range(0, len(stream), size))


async def asked(size: int) -> Collected:
    """What a job comes to at an endpoint whose stream comes in pieces of so many bytes."""

    async def cut() -> AsyncIterator[bytes]:
        for piece in pieces(size):
            yield piece

    model = RemoteModel("far", "http://far/v1#m", changed=lambda _: None)
    answers = httpx.MockTransport(lambda _: httpx.Response(200, content=cut()))
    model.client = httpx.AsyncClient(base_url=model.url, transport=answers)
    told = Collected(replies=1)
    async for batch in model.submit("j", JOB):
        told.add(batch)
    await model.stop()
    return told


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_text_arrives_as_it_was_said(size: int):
    told = asyncio.run(asked(size))
    assert told.error is None and told.replies[0].text == TEXT

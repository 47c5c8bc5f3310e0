"""Many clients at once, as light as can be: bare protocols, one event loop. Times of every stream, for `serve_load`.

`python -m bench.load_client` reads one JSON order from standard input and prints one JSON answer:
{"host", "port", "clients", "seconds", "bodies": [JSON of a chat request, ...]} -> {"streams": [...]}.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any

import uvloop

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n" \
       "Content-Length: {size}\r\n\r\n"  # fmt: skip
FIRST = re.compile(rb'"(?:content|reasoning|reasoning_content)":"[^"]')  # a token with text in it
USAGE = re.compile(rb'"usage":\{[^{}]*?"completion_tokens":(\d+)')
AGAIN = re.compile(rb"\r\nretry-after: *(\S+)\r\n", re.IGNORECASE)
PATIENCE_S = 120
UNTOLD_S = 0.2  # until the next try, where a refusal does not say when


class Stream(asyncio.Protocol):
    """One request on a connection of its own: its bytes, kept until they are all here; times in seconds."""

    def __init__(self, request: bytes) -> None:
        self.request, self.data = request, bytearray()
        self.began_s, self.first_s = time.perf_counter(), None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """It is asked."""
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """A part of the answer."""
        self.data += data
        if self.first_s is None and FIRST.search(data):  # a refusal has no such part
            self.first_s = time.perf_counter() - self.began_s
        if self.done or (b"\r\n\r\n" in self.data and self.status != 200):
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        if not self.over.done():
            self.over.set_result(None)

    @property
    def done(self) -> bool:
        """Whether the answer came to its end."""
        return self.data.find(b"data: [DONE]", -40) >= 0

    @property
    def status(self) -> int:
        """Of HTTP; 0: nothing came."""
        words = bytes(self.data[:16]).split()
        return int(words[1]) if len(words) > 1 else 0

    def told(self) -> dict[str, Any]:
        """What is told of it."""
        usage, again = USAGE.search(self.data), AGAIN.search(self.data)
        return {
            "status": self.status, "first_s": self.first_s, "done": self.done, "began_s": self.began_s,
            "tokens": int(usage[1]) if usage else 0, "retry_after": again[1].decode() if again else None,
        }  # fmt: skip


async def asked(order: dict[str, Any], body: bytes) -> dict[str, Any]:
    """One request, answered or refused."""
    head = HEAD.format(host=order["host"], port=order["port"], size=len(body))
    stream, transport = Stream(head.encode() + body), None
    told = dict[str, Any]()
    try:
        async with asyncio.timeout(PATIENCE_S):
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: stream, order["host"], order["port"])
            await stream.over
    except (TimeoutError, OSError) as cause:
        told["error"] = type(cause).__name__
    if transport is not None:
        transport.close()
    return stream.told() | told


async def client(order: dict[str, Any], number: int, *, began_s: float, told: list[dict[str, Any]]) -> None:
    """One request after the other, until the time is over; who is refused comes back when it was told to."""
    bodies = [body.encode() for body in order["bodies"]]
    turn = number
    while time.perf_counter() < began_s + order["seconds"]:
        one = await asked(order, bodies[turn % len(bodies)])
        told.append({**one, "began_s": one["began_s"] - began_s, "ended_s": time.perf_counter() - began_s})
        turn += order["clients"]
        if one["status"] != 200:
            await asyncio.sleep(float(one["retry_after"] or UNTOLD_S))


async def crowd(order: dict[str, Any]) -> dict[str, Any]:
    """All clients. Streams that began in time are read to their end."""
    told, began_s = list[dict[str, Any]](), time.perf_counter()
    await asyncio.gather(*(client(order, i, began_s=began_s, told=told) for i in range(order["clients"])))
    return {"streams": told}


if __name__ == "__main__":
    json.dump(uvloop.run(crowd(json.load(sys.stdin))), sys.stdout)

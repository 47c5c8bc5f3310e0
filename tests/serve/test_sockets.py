"""What a connection may hold: bytes, time, and what its client does not read."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.serve import sockets
from octavo.serve.sockets import BoundedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED, LONG = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", HEAD + b"Content-Length: 1000000\r\n\r\n"
TALE = 64 << 20  # bytes; more than all buffers on the way hold
Client = Callable[[int], Awaitable[float]]  # given the server's port


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, whatever comes."""
    await Response("no", status_code=401)(scope, receive, send)


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body and the number of headers."""
    request = Request(scope, receive, send)
    body = await request.body()
    await Response(f"{len(body)} {len(request.headers)}")(scope, receive, send)


async def telling(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with very much."""
    await Response(b"x" * TALE)(scope, receive, send)


def served(app: Any, client: Client) -> float:
    """What the client finds at a server of that application."""

    async def both() -> float:
        sock = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http=BoundedProtocol, log_config=None, ws="none", lifespan="off"))
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        try:
            return await asyncio.wait_for(client(sock.getsockname()[1]), 20)
        finally:
            server.should_exit = server.force_exit = True
            await task

    return uvloop.run(both())


async def fed(port: int, first: bytes, more: bytes, *, pause_s: float = 0.0) -> float:
    """Bytes sent, or seconds if there were pauses, until the server closed; it gets more and more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    closed, sent, begin_s = asyncio.ensure_future(reader.read()), 0, time.monotonic()
    while not closed.done() and sent < 64 << 20:
        writer.write(more)
        sent += len(more)
        await asyncio.wait((closed,), timeout=pause_s or 0.001)
    writer.transport.abort()
    await asyncio.wait((closed,))
    return time.monotonic() - begin_s if pause_s else sent


@pytest.mark.parametrize("more", [b"X: " + b"a" * 9_000 + b"\r\n", b"a" * 9_000], ids=["lines", "one line"])
@pytest.mark.parametrize("app", [reading, refusing])
def test_trailers_have_a_limit(app: Any, more: bytes):
    assert served(app, lambda port: fed(port, CHUNKED + b"2\r\n{}\r\n0\r\nX: y", more)) < 4 << 20


def test_trailers_are_dropped_and_the_connection_goes_on():
    async def ask(port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n")
            assert (await reader.readuntil(b"2 2")).startswith(b"HTTP/1.1 200")
        writer.close()
        return 0

    served(reading, ask)


def test_a_body_in_small_chunks_may_be_long():
    async def ask(port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(b"1\r\na\r\n" * 500)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"200000 2")
        writer.close()
        return 0

    served(reading, ask)


@pytest.mark.parametrize("first", [LONG, HEAD + b"\r\n"], ids=["the rest of a body", "line ends"])
def test_nobody_stays_after_the_answer_by_a_byte_now_and_then(first: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "REST_S", 0.5)
    monkeypatch.setattr(sockets, "HEAD_S", 0.5)
    more = b"x" if first is LONG else b"\r\n"
    assert served(refusing, lambda port: fed(port, first, more, pause_s=0.1)) < 3


def test_a_body_that_comes_whole_after_its_answer_keeps_the_connection():
    async def ask(port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD + b"Content-Length: 6\r\n\r\nabc")
            await reader.readuntil(b"no")
            writer.write(b"def")
        writer.close()
        return 0

    served(refusing, ask)


def slow(port: int, *, pause_s: float) -> Awaitable[float]:
    """The bytes that a client gets that reads a part, waits, and reads on."""

    async def ask() -> float:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        loop, found = asyncio.get_running_loop(), 0
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(pause_s)
        try:
            while piece := await loop.sock_recv(sock, 1 << 20):
                found += len(piece)
        except ConnectionResetError:
            return found
        finally:
            sock.close()
        return found

    return ask()


def test_a_client_that_does_not_read_is_cut_off_and_a_slow_one_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "UNREAD_S", 0.4)
    assert served(telling, lambda port: slow(port, pause_s=2)) < TALE
    assert served(telling, lambda port: slow(port, pause_s=0.2)) > TALE

"""What of a request is read, and what of the command line: bodies, bodies' speed, host names, addresses."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from octavo.serve import guard, run
from octavo.serve.app import DIALECTS
from octavo.serve.errors import Refusal
from octavo.serve.gate import OpenGate
from octavo.serve.gateway.gateway import Options
from octavo.serve.guard import Guard, Walls
from octavo.serve.http import openai_error
from octavo.serve.journal import Journal
from octavo.serve.link import Open
from octavo.serve.run import Place, serve_forever
from tests.serve.knocking import CHAT

MORE = {"input": "Hello", "messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello"}


@pytest.mark.parametrize("field", ["foo", "messages"])
def test_millions_of_lists_hold_up_nobody(field: str):
    for dialect in DIALECTS:
        body = b'{"model": "mini", "%s": [%s[]]}' % (field.encode(), b"[]," * 5_000_000)
        begin_s = time.process_time()
        with pytest.raises(Refusal, match="200,000") as refusal:
            dialect.decode(body)
        assert time.process_time() - begin_s < 0.5 and openai_error(refusal.value, "1")["error"]["message"]


def test_a_top_k_of_minus_one_is_off_in_every_dialect():
    def top_k(value: int) -> list[object]:
        body = json.dumps({**MORE, "model": "mini", "max_tokens": 4, "top_k": value}).encode()
        return [dialect.decode(body).job.sampling["top_k"] for dialect in DIALECTS]

    assert set(top_k(-1)) == {0} and set(top_k(7)) == {7}
    with pytest.raises(Refusal, match="top_k"):
        top_k(-2)


async def reading(scope: guard.Scope, receive: guard.Receive, send: guard.Send) -> None:
    while (await receive()).get("more_body"):
        continue
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def asked(walls: Walls, *, host: str = "localhost", pieces: int = 0, pause_s: float = 0.0) -> httpx.Response:
    """What the wall says to a request whose body comes piece by piece."""
    wall = Guard(reading, OpenGate(), journal=Journal("off"), dialects=DIALECTS, walls=walls)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x"
            await asyncio.sleep(pause_s)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(wall), base_url="http://localhost") as client:
            return await client.post(CHAT, content=slowly(), headers={"host": host})

    return asyncio.run(ask())


def test_a_body_has_to_come_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_S", 0.4)
    begin_s = time.monotonic()
    answer = asked(Walls(), pieces=100, pause_s=0.1)
    assert answer.status_code == 408 and "4,096 bytes a second" in answer.text and time.monotonic() - begin_s < 3
    monkeypatch.setattr(guard, "BODY_RATE", 5)  # a piece of one byte earns 0.2 s
    assert asked(Walls(), pieces=20, pause_s=0.1).status_code == 200


@pytest.mark.parametrize("host", ["models.example", "Models.Example:8000", "MODELS.EXAMPLE"])
def test_names_of_hosts_have_no_case(host: str):
    assert asked(Walls(hosts=("Models.Example",)), host=host).status_code == 200
    assert asked(Walls(hosts=("Other.Example",)), host=host).status_code == 421


def has(host: str) -> bool:
    """Whether this machine has an address of IPv6."""
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_it_listens_at_addresses_of_both_kinds(host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]):  # fmt: skip
    if ":" in host and not has(host):
        pytest.skip("this machine has no IPv6")
    found: list[object] = []

    class Server:
        def __init__(self, config: object) -> None:
            found.append(config)

        async def serve(self, *, sockets: list[socket.socket]) -> None:
            found.append(sockets[0].getsockname()[0])
            sockets[0].close()

    monkeypatch.setattr(run, "_Server", Server)
    serve_forever([Open("mini", "mini")], Place(host=host, port=0), Options(folder=tmp_path))
    assert found[1] == host and f"http://{'[::1]' if ':' in host else host}:" in capsys.readouterr().err

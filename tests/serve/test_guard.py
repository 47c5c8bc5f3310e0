"""The server's wall: the shape of its errors, its limits, and its log."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from octavo.serve.app import DIALECTS
from octavo.serve.errors import Refusal
from octavo.serve.gate import OpenGate
from octavo.serve.guard import Guard, Walls
from octavo.serve.journal import Journal
from tests.serve.knocking import BODY, CHAT, OPTIONS, ask, behind_a_gate, raw
from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path_factory.mktemp("served"), options=OPTIONS) as one:
        yield one


def test_errors_of_the_door_have_the_shape_of_their_dialect():
    async def answers() -> list[tuple[object, object, int]]:
        async with behind_a_gate() as client:
            found = []
            for dialect in DIALECTS:
                for method, headers, status in (("POST", {}, 401), ("GET", {"authorization": "Bearer word"}, 405),
                                                ("POST", {"host": "evil.example"}, 421),
                                                ("POST", {"content-length": str(1 << 30)}, 413)):  # fmt: skip
                    answer = await client.request(method, dialect.path, headers=headers)
                    shape = dialect.error(Refusal("x"), "1")
                    found.append((set(answer.json()), set(shape), answer.status_code - status))
            return found

    for got, wanted, difference in asyncio.run(answers()):
        assert got == wanted and difference == 0


def test_a_fault_of_the_servers_own_tells_the_client_a_number_and_the_log_the_place():
    """No stack trace and no word of the request leaves; the log finds it by the same id."""
    lines: list[str] = []

    async def broken(scope: object, receive: object, send: object) -> None:
        raise KeyError("secret prompt")

    guard = Guard(broken, OpenGate(), journal=Journal("json", write=lines.append), dialects=DIALECTS, walls=Walls())

    async def ask_it() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost") as client:
            return await client.post(CHAT, json=BODY)

    answer = asyncio.run(ask_it())
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    id = answer.headers["x-request-id"]
    fault, request = map(json.loads, lines)
    assert id in answer.json()["error"]["message"] and fault["id"] == id == request["id"]
    assert fault["error"] == "KeyError" and any("test_guard.py" in where for where in fault["where"])
    assert not any("secret" in line for line in lines)


# Sizes and patience


def test_bodies_above_the_limit_are_refused_before_and_while_they_come(served: Served):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {(32 << 20) + 1}\r\n\r\n"
    declared = raw(served, head.encode())  # and not a byte of it
    assert declared.split()[1] == b"413" and b"request_too_large" in declared

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 20)

    assert served.client.post(CHAT, content=pieces()).status_code == 413  # chunked: nothing was declared


def test_heads_have_a_limit(served: Served):
    many = served.client.get("/v1/models", headers=[(f"x-{i}", "y") for i in range(200)])
    long = served.client.get("/v1/models", headers={"x": "y" * 70_000})
    assert many.status_code == long.status_code == 431
    sent = raw(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 300_000)  # and no end
    assert sent.split()[1:2] in ([b"400"], [])


def test_every_answer_tells_browsers_to_be_careful(served: Served):
    for path in ("/v1/models", "/nothing", "/health/live"):
        headers = served.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] and headers["x-request-id"]
        assert "server" not in headers


# What is written down


def line_of(served: Served, id: str) -> dict[str, Any]:
    """A request's line: it is written after the response."""
    for _ in range(100):
        for line in served.log.read_text().splitlines():
            if id in line:
                return json.loads(line)
        time.sleep(0.02)
    raise AssertionError(f"{id} is not in the log")


def test_the_log_has_every_request_and_no_word_of_it(served: Served):
    secret, tool = "xyzzy7secret", "hushhushtool"
    tools = [{"type": "function", "function": {"name": tool, "description": secret}}]
    for fields in ({}, {"stream": True}, {"n": 200}, {"tools": tools}, {"stop": [secret]}, {"messages": secret}):
        messages = [{"role": "system", "content": secret}, {"role": "user", "content": secret}]
        answer = ask(served, **{"messages": messages, "user": secret, **fields})
        line = line_of(served, answer.headers["x-request-id"])
        assert line["status"] == answer.status_code and line["path"] == CHAT and line["seconds"] > 0
        if answer.status_code == 200:
            assert line["model"] == "mini" and line["dialect"] == "chat" and line["completion_tokens"] > 0
    log = served.log.read_text()
    assert secret not in log and tool not in log
    said = ask(served, max_tokens=20, enable_thinking=False).json()["choices"][0]["message"]["content"]
    assert len(said) < 4 or said not in served.log.read_text()


def test_a_line_cannot_be_forged():
    lines: list[str] = []
    journal = Journal("text", write=lines.append)
    journal.said("warning", "x\n12:00:00 request id=1 status=200")
    assert len(lines) == 1 and lines[0].count("\n") == 1


def test_the_document_of_the_server_names_what_its_routes_take(served: Served):
    document = served.client.get("/openapi.json").json()
    for dialect in DIALECTS:
        body = document["paths"][dialect.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        kind = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        assert "max_tokens" in kind["properties"] and "model" in kind["properties"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert {"200", "400", "401", "404", "405", "413", "421", "500"} <= set(operation["responses"]), path

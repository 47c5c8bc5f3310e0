"""The page in front of a server whose answers the test writes: same files, same routes, a script instead of a model."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.http import refused
from octavo.serve.page.routes import page_routes

CONTEXT = 4096
MODELS = ("leaf", "quire")
COOKIE = "octavo_session"


class Script:
    """One answer.   piece_s   between pieces;   until_ended   thinks until it is told to end"""

    def __init__(self, text: str = "", *, thinking: str = "", piece_s: float = 0.01, until_ended: bool = False,
                 error: str = "", status: int = 200) -> None:  # fmt: skip
        self.text, self.thinking, self.piece_s, self.until_ended = text, thinking, piece_s, until_ended
        self.error, self.status = error, status


class Scripted:
    """The server.   scripts   by the last message, or message@model;   seen   bodies;   key   "" lets everybody in"""

    def __init__(self, key: str = "") -> None:
        self.key, self.url = key, ""
        self.scripts: dict[str, Script] = {}
        self.seen: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.ended: list[str] = []
        self.gone = 0

    def identify(self, headers: Mapping[str, str]) -> Tenant:
        if self.key and f"{COOKIE}=open" not in headers.get("cookie", ""):
            raise Refusal("no API key was given.", kind="authentication_error")
        return Tenant()

    def app(self) -> Starlette:
        return Starlette(routes=[
            *page_routes(self),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/requests/{id}/{what}", self.control, methods=["POST"]),
            Route("/session", self.session, methods=["GET", "POST", "DELETE"]),
        ])  # fmt: skip

    async def models(self, request: Request) -> Response:
        try:
            self.identify(request.headers)
        except Refusal as refusal:
            return refused(refusal, request_id="")
        return JSONResponse({"data": [{"id": name, "max_model_len": CONTEXT, "state": "ready"} for name in MODELS]})

    async def session(self, request: Request) -> Response:
        if request.method == "GET":
            known = f"{COOKIE}=open" in request.headers.get("cookie", "")
            return JSONResponse({"open": not self.key, "logged_in": known})
        if request.method == "DELETE":
            return JSONResponse({}, headers={"set-cookie": f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"})
        if (await request.json())["key"] != self.key:
            return refused(Refusal("this API key is not known.", kind="authentication_error"), request_id="")
        return JSONResponse({}, headers={"set-cookie": f"{COOKIE}=open; Path=/; HttpOnly; SameSite=Strict"})

    async def control(self, request: Request) -> Response:
        what = {"cancel": self.cancelled, "end_thinking": self.ended}[request.path_params["what"]]
        what.append(request.path_params["id"])
        return JSONResponse({})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        asked = body["messages"][-1]["content"]
        script = self.scripts.get(f"{asked}@{body['model']}") or self.scripts.get(asked) or Script(f"You said: {asked}")
        if script.status != 200:
            refusal = Refusal(script.error, kind="rate_limit_error" if script.status == 429 else "server_error")
            return refused(refusal, request_id="")
        return StreamingResponse(self._stream(body, script, f"r{len(self.seen)}"), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any], script: Script, id: str) -> AsyncIterator[str]:
        head = {"id": f"chatcmpl-{id}", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        thinks = body.get("enable_thinking") is not False and script.thinking
        counts = {"reasoning": 0, "content": 0}

        def chunk(delta: dict[str, str], finish: str | None = None) -> str:
            return line({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        try:
            yield chunk({"role": "assistant", "content": ""})
            thought = pieces(script.thinking) if thinks else []
            while thought and id not in self.ended:
                yield chunk({"reasoning": thought[counts["reasoning"] % len(thought)]})
                counts["reasoning"] += 1
                await asyncio.sleep(script.piece_s)
                if not script.until_ended and counts["reasoning"] >= len(thought):
                    break
            for piece in pieces(script.text):
                yield chunk({"content": piece})
                counts["content"] += 1
                await asyncio.sleep(script.piece_s)
            if script.error:
                yield line({"error": {"message": script.error, "type": "server_error"}})
                return
            yield chunk({}, "stop")
            yield line({**head, "choices": [], **figures(counts)})
            yield "data: [DONE]\n\n"
        finally:
            self.gone += 1


def pieces(text: str) -> list[str]:
    """Words, or longer pieces of a long text."""
    size = max(4, len(text) // 200)
    return [text[i : i + size] for i in range(0, len(text), size)]


def line(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def figures(counts: dict[str, int]) -> dict[str, Any]:
    tokens = sum(counts.values())
    usage = {"prompt_tokens": 1000, "completion_tokens": tokens, "total_tokens": 1000 + tokens,
             "completion_tokens_details": {"reasoning_tokens": counts["reasoning"]}}  # fmt: skip
    return {
        "usage": usage,
        "timings": {"predicted_n": tokens, "predicted_ms": tokens * 20.0, "predicted_per_second": 50.0},
    }


@contextmanager
def running(scripted: Scripted) -> Iterator[Scripted]:
    """On loopback, in a thread."""
    sock = socket.create_server(("127.0.0.1", 0))
    scripted.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(scripted.app(), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield scripted
    finally:
        server.should_exit = True
        thread.join(10)

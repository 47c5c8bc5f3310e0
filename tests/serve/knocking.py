"""What the tests of the server's wall ask, and how."""

import socket
from collections.abc import Mapping

import httpx

from octavo.serve.app import application
from octavo.serve.errors import Refusal
from octavo.serve.gate import OpenGate, Tenant
from octavo.serve.link import Open
from octavo.serve.models import Models
from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served

CHAT = "/v1/chat/completions"
BODY = {"model": "mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "seed": 1}
Headers = Mapping[str, str]
OPTIONS = ["--log", "json", "--allow-host", "models.example", "--allow-origin", "https://app.example"]


def ask(served: Served, headers: Headers | None = None, **fields: object) -> httpx.Response:
    return served.client.post(CHAT, json={**BODY, **fields}, headers=headers)


def raw(served: Served, data: bytes) -> bytes:
    """What the server answers to these bytes, until it closes."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        found = b""
        try:
            while piece := sock.recv(1 << 16):
                found += piece
        except ConnectionResetError:  # it was closed with bytes unread
            return found
    return found


class KeyGate(OpenGate):
    """Lets in who says the word."""

    def identify(self, headers: Headers) -> Tenant:
        if headers.get("authorization") != "Bearer word":
            raise Refusal("no key, or a wrong one.", kind="authentication_error")
        return Tenant(key="k1")


def behind_a_gate() -> httpx.AsyncClient:
    """The real application, in this process, behind a gate that wants a key."""
    app = application(Models([Open(str(mini_qwen3()), "mini")]), gate=KeyGate())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

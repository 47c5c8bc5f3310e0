"""The server's outer wall: which hosts, origins and sizes come in, who is asked for a key, what every error looks like.

A plain ASGI wrapper around the whole application. A stream pays one function call per chunk for it.
"""

import asyncio
import ipaddress
import re
import time
import uuid
from collections.abc import Awaitable, Iterable

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.serve.errors import Refusal
from octavo.serve.gate import Gate, Tenant
from octavo.serve.gateway.files import MOST_BYTES as FILE_BYTES
from octavo.serve.http import Dialect, openai_error, refused
from octavo.serve.journal import Journal
from octavo.serve.spans import TRACEPARENT

BODY_BYTES = 32 << 20
BODY_S = 60.0  # for a body to come; for each BODY_RATE bytes of it a second more, but BODY_S at most between two pieces
BODY_RATE = 4096
MOST_HEADERS, HEAD_BYTES = 128, 64 << 10
SAFE = {  # for every response that does not say otherwise
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'", "cache-control": "no-store",
}  # fmt: skip


class Walls(Struct, frozen=True, kw_only=True):
    """What comes in.

    hosts     names that the Host header may hold, beside localhost and any IP address: no page of another site can
              come by those, as a rebound name can; "*": all names
    origins   of web pages elsewhere that may call this server (CORS); none of itself
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes: int = BODY_BYTES


class Denied(Refusal):
    """A refusal whose HTTP status is not that of its kind."""

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message, kind="permission_error" if status == 403 else "invalid_request_error", code=code)
        self.given = status

    @property
    def status(self) -> int:
        """As given."""
        return self.given


class Visit:
    """One HTTP request on its way through.   tenant: None while nobody was asked for a key;   status: 0 before any"""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = Headers(scope=scope)
        self.id, self.began_s = uuid.uuid4().hex, time.perf_counter()
        self.method, self.path = str(scope["method"]), str(scope["path"])
        self.tenant: Tenant | None = None
        self.status, self.size_bytes, self.whole = 0, 0, False
        self.most_bytes, self.extra = BODY_BYTES, dict[str, str]()
        self.waited_s = 0.0  # for pieces of the body
        scope["request_id"] = self.id

    def send(self, message: Message) -> Awaitable[None]:
        """To the client; of a stream's pieces nothing is looked at."""
        if message["type"] == "http.response.start":
            self._start(message)
        return self._send(message)

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        found = list(message.get("headers", ()))
        named = {name for name, _ in found}
        asking = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        more = {**SAFE, "x-request-id": self.id, **self.extra, **asking}
        found += [(k.encode(), v.encode("latin-1")) for k, v in more.items() if k.encode() not in named]
        message["headers"] = found

    async def receive(self) -> Message:
        """From the client, counted while the body comes. Raises Denied for too much, or too slow."""
        if self.whole:
            return await self._receive()
        left_s, asked_s = BODY_S + self.size_bytes / BODY_RATE - self.waited_s, time.perf_counter()
        try:
            async with asyncio.timeout(min(BODY_S, left_s)):
                message = await self._receive()
        except TimeoutError as cause:
            raise Denied(f"the body stopped coming for {BODY_S:.0f} s, or came at less than {BODY_RATE:,} bytes a "
                         f"second: send it again.", status=408) from cause  # fmt: skip
        self.waited_s += time.perf_counter() - asked_s
        self.size_bytes += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.size_bytes > self.most_bytes:
            raise too_large(self.most_bytes)
        return message


class Guard:
    """Wraps the server's routes.

    dialects   whose errors look as their clients expect, by path;   others look as OpenAI's
    """

    def __init__(self, app: ASGIApp, gate: Gate, *, journal: Journal, dialects: Iterable[Dialect],
                 walls: Walls = Walls()) -> None:  # fmt: skip
        self.app, self.gate, self.walls, self.journal = app, gate, walls, journal
        self.hosts = {host.lower() for host in walls.hosts}  # as `host_name` has them
        self.errors = sorted(((d.path, d.error) for d in dialects), key=lambda pair: -len(pair[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it through, or say why not."""
        scope["app"] = self.app  # with it, the router raises for unknown paths, and does not answer itself
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        visit = Visit(scope, receive, send)
        self.journal.opened(visit.id)
        try:
            if not await self._met(visit):
                await self.app(scope, visit.receive, visit.send)
        except ClientDisconnect:
            visit.status = visit.status or 499
        except (Refusal, HTTPException) as cause:
            await self._refuse(visit, cause if isinstance(cause, Refusal) else of_router(cause, visit))
        except Exception as cause:
            self.journal.failed(visit.id, cause)
            if visit.status:
                raise  # the connection has to break: half of a response stands on it
            await self._refuse(visit, Refusal(f"a fault of the server's own, noted in its log as {visit.id}.",
                                              kind="server_error", code="internal_error"))  # fmt: skip
        finally:
            self.journal.visited(visit)

    async def _met(self, visit: Visit) -> bool:
        """Whether the visit was answered at the door. Raises Refusal."""
        visit.most_bytes = FILE_BYTES if visit.path == "/v1/files" else self.walls.body_bytes
        if "traceparent" in visit.headers:
            TRACEPARENT.set(visit.headers["traceparent"][:200])
        self._check_head(visit)
        self._check_host(visit.headers.getlist("host"))
        preflight = self._check_origin(visit)
        length = visit.headers.get("content-length", "0")
        if length.isdigit() and int(length) > visit.most_bytes:
            raise too_large(visit.most_bytes)
        if preflight:
            await visit.send({"type": "http.response.start", "status": 204, "headers": []})
            await visit.send({"type": "http.response.body", "body": b""})
        elif not public(visit.method, visit.path):
            visit.tenant = self.gate.identify(visit.headers)
        return preflight

    def _check_head(self, visit: Visit) -> None:
        size = sum(len(name) + len(value) for name, value in visit.scope["headers"])
        if len(visit.scope["headers"]) > MOST_HEADERS or size + len(visit.scope["raw_path"]) > HEAD_BYTES:
            raise Denied(f"the request has {len(visit.scope['headers'])} headers and {size:,} bytes of them: at most "
                         f"{MOST_HEADERS} headers of {HEAD_BYTES:,} bytes are read.", status=431)  # fmt: skip

    def _check_host(self, hosts: list[str]) -> None:
        """Raise Denied for a name that is not this server's: a page's own, bound to its address (DNS rebinding)."""
        if len(hosts) != 1:
            raise Denied(f"the request has {len(hosts)} Host headers, one was needed.", status=400)
        name = host_name(hosts[0])
        if not (is_address(name) or name == "localhost" or name in self.hosts or "*" in self.hosts):
            raise Denied(f"this server is not known as {name[:100]!r}: start it with --allow-host {name[:100]}, or use "
                         f"its address.", status=421)  # fmt: skip

    def _check_origin(self, visit: Visit) -> bool:
        """Whether this is a preflight that is allowed. Raises Denied for pages elsewhere that were not let in."""
        origin, site = visit.headers.get("origin"), visit.headers.get("sec-fetch-site", "none")
        if origin is None:
            reads_page = visit.headers.get("sec-fetch-mode") == "navigate" and public(visit.method, visit.path)
            if site in ("cross-site", "same-site") and not reads_page:
                raise Denied("a web page of another site may not call this server.", status=403)
            return False
        if origin in self.walls.origins:
            visit.extra = allowing(origin, visit.headers)
            return visit.method == "OPTIONS" and "access-control-request-method" in visit.headers
        if origin.lower().partition("://")[2] != visit.headers["host"].lower():
            raise Denied(f"web pages of {origin[:100]!r} may not call this server: start it with --allow-origin "
                         f"{origin[:100]} if they should.", status=403)  # fmt: skip
        return False

    async def _refuse(self, visit: Visit, refusal: Refusal) -> None:
        error = next((error for path, error in self.errors if visit.path.startswith(path)), openai_error)
        response = refused(refusal, request_id=visit.id, error=error)
        if isinstance(refusal.__cause__, HTTPException) and refusal.__cause__.headers:
            response.headers.update(refusal.__cause__.headers)
        await response(visit.scope, visit.receive, visit.send)


def public(method: str, path: str) -> bool:
    """Whether anybody may see it: that the server lives, and the web page's files; and where keys are exchanged for
    sessions. All else needs a key."""
    seen = path in ("/", "/health/live") or path.startswith("/static/")
    return (seen and method in ("GET", "HEAD")) or path == "/session"


def host_name(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    bracketed = re.match(r"\[([^\]]*)\]", host)
    return bracketed[1].lower() if bracketed else host.rpartition(":")[0].lower() if ":" in host else host.lower()


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def allowing(origin: str, headers: Headers) -> dict[str, str]:
    """The headers that let pages of an origin call this server and read its answers."""
    wanted = headers.get("access-control-request-headers", "")
    return {
        "access-control-allow-origin": origin, "vary": "Origin", "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": wanted if re.fullmatch(r"[\w, -]{0,2000}", wanted) else "",
        "access-control-expose-headers": "x-request-id, retry-after, retry-after-ms", "access-control-max-age": "600",
    }  # fmt: skip


def too_large(most_bytes: int) -> Refusal:
    """A body above the limit."""
    return Refusal(f"the body is larger than {most_bytes:,} bytes: send less, or start the server with a larger "
                   f"--max-body.", kind="request_too_large")  # fmt: skip


def of_router(cause: HTTPException, visit: Visit) -> Refusal:
    """What the router did not find, as a refusal that says so."""
    words = {
        404: f"there is nothing at {visit.path[:200]!r}: GET /openapi.json lists what there is.",
        405: f"{visit.path[:200]!r} does not take {visit.method[:20]}: GET /openapi.json says what it takes.",
    }
    told = Denied(words.get(cause.status_code, str(cause.detail)), status=cause.status_code)
    if cause.status_code == 404:
        told.kind = "not_found_error"
    told.__cause__ = cause
    return told

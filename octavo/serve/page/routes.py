"""What the page consists of, on the wire: files that may be read by anybody, and rendering for those who may ask."""

import asyncio
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.http import as_json, id_of, refused
from octavo.serve.page.markdown import LONGEST, render
from octavo.serve.wire import read

POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:", "connect-src 'self'",
    "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "require-trusted-types-for 'script'",
    "trusted-types octavo",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()", "cache-control": "no-cache",
}  # fmt: skip
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}  # fmt: skip
LONGEST_BODY = 6 * LONGEST + 1000  # bytes: JSON may write a character as \uXXXX


class Identifies(Protocol):
    """Knows who sends some headers; a Gate does."""

    def identify(self, headers: Mapping[str, str]) -> Tenant:
        """Raises Refusal: authentication_error."""
        ...


class Text(msgspec.Struct):
    """What is to be rendered: markdown of at most LONGEST characters."""

    text: str


class Page:
    """The page's endpoints."""

    def __init__(self, gate: Identifies) -> None:
        self.gate = gate
        self.threads = asyncio.Semaphore(2)  # so that a long text of one takes little from all others

    async def file(self, request: Request) -> Response:
        """A file of the page; `/` is index.html."""
        name = request.path_params.get("name", "index.html")
        found = static().get(name)
        if found is None:
            missing = Refusal(f"the page has no file {name!r}.", kind="not_found_error")
            return refused(missing, request_id=id_of(request))
        tag, data = found
        headers = {**HEADERS, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=KINDS[name.rpartition(".")[2]])

    async def render(self, request: Request) -> Response:
        """`{"text": markdown}` -> `{"html": ...}`. In a thread: nobody's tokens wait for it."""
        try:
            self.gate.identify(request.headers)
            wanted, _ = read(await _body(request), Text)
            if len(wanted.text) > LONGEST:
                raise _too_long(len(wanted.text))
        except Refusal as refusal:
            return refused(refusal, request_id=id_of(request))
        async with self.threads:
            html = await asyncio.to_thread(render, wanted.text)
        return as_json({"html": html}, headers=HEADERS)


async def _body(request: Request) -> bytes:
    parts, size = list[bytes](), 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LONGEST_BODY:
            raise _too_long(size)
    return b"".join(parts)


def _too_long(size: int) -> Refusal:
    return Refusal(f"a text of {size} characters or more: at most {LONGEST} are rendered.", kind="request_too_large",
                   param="text")  # fmt: skip


@lru_cache
def static() -> dict[str, tuple[str, bytes]]:
    """Name -> entity tag and bytes of each file."""
    found = dict[str, tuple[str, bytes]]()
    for file in files("octavo.serve.page").joinpath("static").iterdir():
        if file.name.rpartition(".")[2] in KINDS:
            data = file.read_bytes()
            found[file.name] = f'"{hashlib.sha256(data).hexdigest()[:20]}"', data
    return found


def page_routes(gate: Identifies) -> list[Route]:
    """All routes of the page."""
    page = Page(gate)
    return [
        Route("/", page.file, methods=["GET"]),
        Route("/page/render", page.render, methods=["POST"]),
        Route("/static/{name}", page.file, methods=["GET"]),
    ]

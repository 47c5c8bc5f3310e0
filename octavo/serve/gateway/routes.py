"""The gateway's own endpoints: sessions of the web page, files, batches."""

import secrets
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.gateway.batches import ENDPOINTS, WINDOW_S, Batch, Owned
from octavo.serve.gateway.files import Files, page
from octavo.serve.gateway.gateway import Gateway
from octavo.serve.gateway.runner import Runner
from octavo.serve.gateway.sessions import set_cookie
from octavo.serve.http import as_json, id_of, refused
from octavo.serve.wire import read

MOST_BODY_BYTES = 1 << 16
Work = Callable[[Request, Tenant], Awaitable[Response]]
Answer = Callable[[Request], Awaitable[Response]]


class _Login(Struct):
    key: str = ""


class _Wanted(Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class Doors:
    """Endpoints that belong to one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.files = gateway, Files(gateway.state)
        self.runner = Runner(gateway, self.files)

    def routes(self) -> list[Route]:
        """All of them. `/session` asks for the key itself; the others need it in the request."""
        files, known = self.files, self._known
        table: tuple[tuple[str, str, Answer], ...] = (
            ("GET", "/session", self.session), ("POST", "/session", _told(self.log_in)),
            ("DELETE", "/session", _told(self.log_out)),
            ("POST", "/v1/files", known(files.create)), ("GET", "/v1/files", known(files.list)),
            ("GET", "/v1/files/{id}", known(files.one)), ("DELETE", "/v1/files/{id}", known(files.delete)),
            ("GET", "/v1/files/{id}/content", known(files.content)),
            ("POST", "/v1/batches", known(self.create)), ("GET", "/v1/batches", known(self.list)),
            ("GET", "/v1/batches/{id}", known(self.one)), ("POST", "/v1/batches/{id}/cancel", known(self.cancel)),
        )  # fmt: skip
        return [Route(path, answer, methods=[method]) for method, path, answer in table]

    def _known(self, work: Work) -> Answer:
        """An endpoint that is given its tenant."""

        async def answer(request: Request) -> Response:
            return await work(request, self.gateway.identify(request.headers))

        return _told(answer)

    async def session(self, request: Request) -> Response:
        """Whether a key is needed, and whether this browser is logged in."""
        known = not self.gateway.open
        try:
            self.gateway.identify(request.headers)
        except Refusal:
            known = False
        return as_json({"open": self.gateway.open, "logged_in": known})

    async def log_in(self, request: Request) -> Response:
        """{"key"} -> a cookie."""
        asked, _ = read(await small_body(request), _Login)
        if self.gateway.open:
            return as_json({"open": True, "logged_in": False})
        key = self.gateway.keyring.find(asked.key)
        cookie = set_cookie(self.gateway.sessions.open(key.id), secure=request.url.scheme == "https")
        return as_json({"open": False, "logged_in": True, "name": key.name}, headers={"set-cookie": cookie})

    async def log_out(self, request: Request) -> Response:
        """The cookie is worth nothing any more."""
        self.gateway.sessions.close(request.headers)
        cookie = set_cookie("", secure=request.url.scheme == "https")
        return as_json({"open": self.gateway.open, "logged_in": False}, headers={"set-cookie": cookie})

    async def create(self, request: Request, tenant: Tenant) -> Response:
        """A batch begins."""
        wanted, _ = read(await small_body(request), _Wanted)
        if wanted.endpoint not in ENDPOINTS:
            raise Refusal(f"endpoint {wanted.endpoint!r}: choose one of {', '.join(ENDPOINTS)}.", param="endpoint")
        file = self.files.find(wanted.input_file_id, tenant)
        window_s, now = WINDOW_S.get(wanted.completion_window), int(time.time())
        if window_s is None:
            raise Refusal(f"completion_window {wanted.completion_window!r}: choose {', '.join(WINDOW_S)}.",
                          param="completion_window")  # fmt: skip
        batch = Batch(
            id=f"batch_{secrets.token_hex(16)}", endpoint=wanted.endpoint, input_file_id=file["id"],
            completion_window=wanted.completion_window, created_at=now, metadata=wanted.metadata,
            expires_at=now + window_s,
        )  # fmt: skip
        owned = Owned(batch, tenant.space, tenant.key)
        self.runner.shelf.add(owned)
        self.runner.start(owned)
        return as_json(batch)

    async def list(self, request: Request, tenant: Tenant) -> Response:
        """The tenant's, the newest first."""
        return as_json(page([to_builtins(o.batch) for o in self.runner.shelf.of(tenant.space)], request))

    async def one(self, request: Request, tenant: Tenant) -> Response:
        """How far it is."""
        return as_json(self.runner.shelf.find(request.path_params["id"], owner=tenant.space).batch)

    async def cancel(self, request: Request, tenant: Tenant) -> Response:
        """It stops; what is done of it is in its files."""
        return as_json(await self.runner.cancel(self.runner.shelf.find(request.path_params["id"], owner=tenant.space)))


def _told(work: Answer) -> Answer:
    """An endpoint whose refusals are told to the client."""

    async def answer(request: Request) -> Response:
        request_id = id_of(request)
        try:
            return await work(request)
        except Refusal as refusal:
            return refused(refusal, request_id=request_id)

    return answer


async def small_body(request: Request) -> bytes:
    """The body of a request that has little to say. Raises Refusal for a large one."""
    body = b""
    async for data in request.stream():
        body += data
        if len(body) > MOST_BODY_BYTES:
            raise Refusal(f"the body has more than {MOST_BODY_BYTES:,} bytes.", kind="request_too_large")
    return body

"""The endpoints of the Responses dialect beside creating one: asked for again, cancelled, deleted, its input listed."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.serve.asides import running
from octavo.serve.dialects import responses
from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.http import Desk, Dialect, Doing, Endpoint, as_json, openai_error
from octavo.serve.shelf import Store, TenantShelf
from octavo.serve.stream import Collected
from octavo.serve.wire import Asked, Writer

CANCEL_S, LOOK_S = 10.0, 0.01  # how long a cancelled response may take to end, and how often to look
MOST_ITEMS = 100


class Responses(Endpoint):
    """Creates responses, and keeps them."""

    def __init__(self, desk: Desk) -> None:
        self.store, self.works = Store(), set[asyncio.Task[None]]()
        dialect = Dialect("responses", responses.PATH, self.nobodys, openai_error)
        super().__init__(desk, dialect)

    def nobodys(self, body: bytes) -> Asked:
        """A request of nobody in particular."""
        return self.decode(body, Tenant())

    def decode(self, body: bytes, tenant: Tenant) -> Asked:
        """A request, which may go on from the tenant's responses."""
        return responses.decode(body, TenantShelf(self.store, tenant))

    async def _whole(self, request: Request, doing: Doing, writer: Writer, *,
                     headers: dict[str, str]) -> Response:  # fmt: skip
        if not (isinstance(writer, responses.Writer) and writer.request.background):
            return await super()._whole(request, doing, writer, headers=headers)
        try:
            begun = writer.response()
            writer.memory.keep(begun)
        except BaseException:
            self.desk.end(doing, Collected(replies=1))
            raise
        work = asyncio.ensure_future(self._in_background(doing, writer, id=begun["id"]))
        self.works.add(work)
        work.add_done_callback(self.works.discard)
        return as_json(begun, headers=headers)

    async def _in_background(self, doing: Doing, writer: Writer, *, id: str) -> None:
        """What nobody waits for. It is lost with the server, and kept only if it was not deleted meanwhile."""
        collected = Collected(replies=1)
        try:
            async for batch in doing.stream:
                self.desk.saw(doing, batch)
                collected.add(batch)
        finally:
            self.desk.end(doing, collected)
            if self.store.find(TenantShelf(self.store, doing.tenant).owner, id) is not None:
                writer.whole(collected)

    async def compact(self, request: Request, tenant: Tenant) -> Any:
        """Refused: no model here was trained to read a conversation that was made smaller."""
        raise Refusal("conversations are not compacted here: send their items.", kind="not_found_error")

    async def retrieve(self, request: Request, tenant: Tenant) -> Any:
        """A response that was stored."""
        return self._kept(request, tenant).response

    async def delete(self, request: Request, tenant: Tenant) -> Any:
        """Forget a response."""
        id = self._kept(request, tenant).response["id"]
        TenantShelf(self.store, tenant).drop(id)
        return {"id": id, "object": "response", "deleted": True}

    async def cancel(self, request: Request, tenant: Tenant) -> Any:
        """End a response that is being written; one that is over stays as it is."""
        id = request.path_params["id"]
        try:
            doing = running(self.desk, id, tenant)
        except Refusal:
            return self._kept(request, tenant).response
        doing.stream.cancel()
        for _ in range(int(CANCEL_S / LOOK_S)):
            if doing.stream.id not in self.desk.doing:
                break
            await asyncio.sleep(LOOK_S)
        kept = self.store.find(TenantShelf(self.store, tenant).owner, id)
        return kept.response if kept else {"id": id, "object": "response", "status": "cancelled"}

    async def items(self, request: Request, tenant: Tenant) -> Any:
        """The items that a response answers, the newest first unless `order` is asc."""
        kept, ask = self._kept(request, tenant), request.query_params
        given = [{**item, "id": f"in_{i}" if item.get("id") is None else item["id"]}
                 for i, item in enumerate(kept.given)]  # fmt: skip
        if ask.get("order", "desc") != "asc":
            given.reverse()
        ids, after = [item["id"] for item in given], ask.get("after")
        first = ids.index(after) + 1 if after is not None and after in ids else 0
        limit = int(ask["limit"][:9]) if ask.get("limit", "").isdecimal() else 20
        page = given[first : first + max(1, min(limit, MOST_ITEMS))]
        return {"object": "list", "data": page, "has_more": first + len(page) < len(given),
                "first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}  # fmt: skip

    def _kept(self, request: Request, tenant: Tenant) -> responses.Kept:
        return TenantShelf(self.store, tenant).find(request.path_params["id"])

"""`/v1/files`: kept in the state folder, each for its owner alone."""

import math
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.gateway.multipart import Multipart, boundary_of
from octavo.serve.gateway.state import State
from octavo.serve.http import as_json

MOST_BYTES = 512 << 20
MOST_FIELD_BYTES = 4096
MOST_LISTED = 100
STALE_S = 3600.0  # since a file without a row was written last: nobody does any more


class Files:
    """The endpoints, and what batches need of files."""

    def __init__(self, state: State) -> None:
        self.state, self.db = state, state.connect()
        self.sweep(time.time() - STALE_S)

    def sweep(self, before: float) -> None:
        """Delete what a server that was killed has left: files without a row. What other servers write now is younger.

        before   Unix time
        """
        known = {row["id"] for row in self.db.execute("SELECT id FROM files")}
        for path in self.state.files.glob("file-*"):
            if path.name not in known and _written_at(path) < before:
                path.unlink(missing_ok=True)

    async def create(self, request: Request, tenant: Tenant) -> Response:
        """A multipart form with `file` and `purpose`, or the bare bytes with ?purpose= and ?filename=."""
        id = f"file-{secrets.token_hex(16)}"
        path, part = self.path(id), self.path(id + ".part")
        fields = {
            "purpose": request.query_params.get("purpose", ""),
            "filename": request.query_params.get("filename", ""),
        }
        try:
            with part.open("wb") as file:
                if request.headers.get("content-type", "").startswith("multipart/form-data"):
                    await _form(request, file, fields)
                else:
                    await _raw(request.stream(), file)
            if not fields["purpose"]:
                raise Refusal("purpose is missing: batch files have the purpose batch.", param="purpose")
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        return as_json(self.add(id, owner=tenant.space, name=fields["filename"] or id, purpose=fields["purpose"]))

    async def list(self, request: Request, tenant: Tenant) -> Response:
        """The newest first."""
        purpose = request.query_params.get("purpose", "")
        rows = self.db.execute(
            "SELECT * FROM files WHERE owner = ? AND (? = '' OR purpose = ?) ORDER BY created DESC, id",
            (tenant.space, purpose, purpose),
        )
        return as_json(page([described(row) for row in rows], request))

    async def one(self, request: Request, tenant: Tenant) -> Response:
        """What is known of it."""
        return as_json(described(self.find(request.path_params["id"], tenant)))

    async def content(self, request: Request, tenant: Tenant) -> Response:
        """Its bytes."""
        row = self.find(request.path_params["id"], tenant)
        headers = {"x-content-type-options": "nosniff"}
        return FileResponse(self.path(row["id"]), media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request, tenant: Tenant) -> Response:
        """It is gone."""
        id = self.find(request.path_params["id"], tenant)["id"]
        self.db.execute("DELETE FROM files WHERE id = ?", (id,))
        self.path(id).unlink(missing_ok=True)
        return as_json({"id": id, "object": "file", "deleted": True})

    def add(self, id: str, *, owner: str, name: str, purpose: str) -> dict[str, Any]:
        """Make a file known that lies in its place."""
        row = {"id": id, "owner": owner, "name": name[:255], "purpose": purpose[:64],
               "bytes": self.path(id).stat().st_size, "created": time.time()}  # fmt: skip
        self.db.execute("INSERT OR REPLACE INTO files VALUES (:id, :owner, :name, :purpose, :bytes, :created)", row)
        return described(row)

    def find(self, id: str, tenant: Tenant) -> Any:
        """A file of this tenant. Raises Refusal for any other."""
        row = self.db.execute("SELECT * FROM files WHERE id = ? AND owner = ?", (id, tenant.space)).fetchone()
        if row is None:
            raise Refusal(f"there is no file {id!r}.", kind="not_found_error", param="id")
        return row

    def path(self, id: str) -> Path:
        """Where a file lies. Ids are ours: what a client names is looked up first."""
        return self.state.files / id


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another server swept it
        return math.inf


def described(row: Any) -> dict[str, Any]:
    """As OpenAI's API has it."""
    return {
        "id": row["id"], "object": "file", "bytes": row["bytes"], "created_at": int(row["created"]),
        "filename": row["name"], "purpose": row["purpose"], "status": "processed",
    }  # fmt: skip


def page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """A part of a list, by ?limit= and ?after=. Raises Refusal for a limit that is none."""
    text, after = request.query_params.get("limit", str(MOST_LISTED)), request.query_params.get("after")
    if not text.isdecimal() or int(text[:9]) < 1:
        raise Refusal(f"limit is {text!r}: give a number from 1.", param="limit")
    start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), len(items)) if after else 0
    some = items[start : start + min(int(text[:9]), MOST_LISTED)]
    return {
        "object": "list", "data": some, "has_more": start + len(some) < len(items),
        "first_id": some[0]["id"] if some else None, "last_id": some[-1]["id"] if some else None,
    }  # fmt: skip


async def _raw(stream: AsyncIterator[bytes], file: IO[bytes]) -> None:
    size = 0
    async for data in stream:
        size += len(data)
        _check(size)
        file.write(data)


async def _form(request: Request, file: IO[bytes], fields: dict[str, str]) -> None:
    """The part `file` into the file, small plain parts into the fields."""
    reader, size, found = Multipart(boundary_of(request.headers["content-type"])), 0, False
    async for data in request.stream():
        size += len(data)
        _check(size)
        for piece in reader.push(data):
            if piece.name == "file":
                if piece.first and found:
                    raise Refusal("file is given twice.", param="file")
                found = True
                fields["filename"] = piece.filename or fields["filename"]
                file.write(piece.data)
            else:
                text = fields.get(piece.name, "") if not piece.first else ""
                fields[piece.name] = (text + piece.data.decode("utf-8", "replace"))[:MOST_FIELD_BYTES]
    if not reader.done or not found:
        raise Refusal("the form ends early." if found else "the form has no part named file.", param="file")


def _check(size: int) -> None:
    if size > MOST_BYTES:
        raise Refusal(f"a file may have {MOST_BYTES:,} bytes: split it.", kind="request_too_large", param="file")

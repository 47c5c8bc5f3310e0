"""Batches as they are kept, and the lines of their files."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from octavo.serve.errors import Refusal

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")
MOST_LINES, MOST_LINE_BYTES, MOST_ERRORS = 50_000, 16 << 20, 100
Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled",
                 "expired"]  # fmt: skip
OVER = ("completed", "failed", "cancelled", "expired")
WINDOW_S = {"24h": 24 * 3600}  # what completion_window may say


class Counts(Struct):
    """Of lines."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct, kw_only=True):
    """As OpenAI's API has it. Times: Unix, seconds."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str = "24h"
    object: str = "batch"
    status: Status = "validating"
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int = 0
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None


class Line(Struct, frozen=True):
    """One request of a batch."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: Literal["POST"] = "POST"


class Owned(Struct):
    """A batch and whose it is.   key   id of the API key that pays, "" without keys"""

    batch: Batch
    owner: str
    key: str


class Shelf:
    """All batches, in the database.   run   of this server: only its own batches are done here"""

    def __init__(self, db: sqlite3.Connection, *, run: str) -> None:
        self.db, self.run = db, run

    def add(self, owned: Owned) -> None:
        """A new one."""
        b = owned.batch
        self.db.execute(
            "INSERT INTO batches (id, owner, key, run, state, created, value) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (b.id, owned.owner, owned.key, self.run, b.status, time.time(), msgspec.json.encode(b).decode()),
        )

    def put(self, batch: Batch) -> None:
        """It has changed."""
        value = msgspec.json.encode(batch).decode()
        self.db.execute("UPDATE batches SET state = ?, value = ? WHERE id = ?", (batch.status, value, batch.id))

    def find(self, id: str, *, owner: str) -> Owned:
        """One of this owner's. Raises Refusal for any other."""
        row = self.db.execute("SELECT * FROM batches WHERE id = ? AND owner = ?", (id, owner)).fetchone()
        if row is None:
            raise Refusal(f"there is no batch {id!r}.", kind="not_found_error", param="id")
        return _owned(row)

    def of(self, owner: str) -> list[Owned]:
        """An owner's, the newest first."""
        rows = self.db.execute("SELECT * FROM batches WHERE owner = ? ORDER BY created DESC, id", (owner,))
        return [_owned(row) for row in rows]

    def unfinished(self) -> list[Owned]:
        """Those that this server has to go on with, the oldest first."""
        rows = self.db.execute("SELECT * FROM batches WHERE run = ? ORDER BY created, id", (self.run,))
        return [owned for owned in map(_owned, rows) if owned.batch.status not in OVER]

    def done_lines(self, id: str) -> dict[int, bool]:
        """Line -> whether it went well, of the lines that are done."""
        rows = self.db.execute("SELECT line, good FROM lines WHERE batch = ?", (id,))
        return {row["line"]: bool(row["good"]) for row in rows}

    def results(self, id: str, *, good: bool) -> Iterator[bytes]:
        """What the lines gave, in their order."""
        query = "SELECT result FROM lines WHERE batch = ? AND good = ? ORDER BY line"
        return (row["result"] for row in self.db.execute(query, (id, int(good))))

    def forget_lines(self, id: str) -> None:
        """They stand in files now."""
        self.db.execute("DELETE FROM lines WHERE batch = ?", (id,))


def _owned(row: sqlite3.Row) -> Owned:
    return Owned(msgspec.json.decode(row["value"], type=Batch), row["owner"], row["key"])


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that hold anything, from 1; of one that is too long, as much as shows that it is."""
    with path.open("rb") as file:
        number = 0
        while text := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if text.strip():
                yield number, text


def line_of(text: bytes, *, endpoint: str) -> Line:
    """A request. Raises Refusal naming what is wrong."""
    if len(text) > MOST_LINE_BYTES:
        raise Refusal(f"a line may have {MOST_LINE_BYTES:,} bytes.", code="line_too_long")
    try:
        line = msgspec.json.decode(text, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise Refusal(
            f"not a request with custom_id, method POST, url and body: {cause}.", code="invalid_json_line"
        ) from cause
    if line.url != endpoint:
        raise Refusal(f"url is {line.url!r}, the batch is for {endpoint}.", param="url", code="mismatched_endpoint")
    if line.body.get("stream"):
        raise Refusal("a batch cannot stream: leave stream out.", param="body.stream", code="invalid_request")
    return line


def checked(path: Path, *, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """The number of requests in a file, and what is wrong with its lines."""
    seen, wrong, count = set[str](), list[dict[str, Any]](), 0
    for number, text in numbered(path):
        count += 1
        try:
            line = line_of(text, endpoint=endpoint)
            if line.custom_id in seen:
                raise Refusal(
                    f"custom_id {line.custom_id!r} is given twice.", param="custom_id", code="duplicate_custom_id"
                )
            seen.add(line.custom_id)
        except Refusal as why:
            wrong.append({"code": why.code, "line": number, "message": str(why), "param": why.param or None})
        if len(wrong) >= MOST_ERRORS or count > MOST_LINES:
            break
    if not count or count > MOST_LINES:
        message = f"a batch has 1 to {MOST_LINES:,} requests, one per line."
        wrong.append({"code": "invalid_line_count", "line": None, "message": message, "param": None})
    return count, wrong

"""Batches at a running server: a file of requests goes there, results come back. The key is in OCTAVO_API_KEY."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer
from msgspec import Struct

from octavo.cli.clean import encodable, one_line
from octavo.cli.files import whole
from octavo.core.errors import OctavoError, RequestError
from octavo.core.strict import decode

if TYPE_CHECKING:
    from urllib.error import HTTPError

OVER = ("completed", "failed", "cancelled", "expired")
POLL_S, TIMEOUT_S = 1.0, 600
MOST_BYTES = 1 << 30  # of a file of requests: more than servers take
Url = Annotated[str, typer.Option("--url", help="Address of the server.")]
Id = Annotated[str, typer.Argument(help="What submit printed.")]
HERE = "http://127.0.0.1:8000"
T = TypeVar("T")


class First(Struct):
    """Of a file's first request: what all of them are for."""

    url: str


class Sent(Struct):
    """A file at the server."""

    id: str


class Counts(Struct):
    """Of requests."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Fault(Struct):
    """What is wrong with a line of the file."""

    message: str = ""
    line: int | None = None


class Faults(Struct):
    """A list, as OpenAI's API has it."""

    data: tuple[Fault, ...] = ()


class Batch(Struct):
    """What we look at of a batch."""

    id: str
    status: str
    request_counts: Counts
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Faults | None = None


class Why(Struct):
    """Of a refusal."""

    message: str


class Refused(Struct):
    """How a server refuses."""

    error: Why


def submit(
    file: Annotated[Path, typer.Argument(help="JSONL: custom_id, method POST, url, body.")],
    *,
    url: Url = HERE,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for it and print the results.")] = False,
) -> None:
    """Send a file of requests; prints the batch's id."""
    data = whole(file, most_bytes=MOST_BYTES, needed="a file of requests", pipes=True)
    first = decode(data.split(b"\n", 1)[0], First, error=RequestError,
                   what=f"{file}: the first line is no request with custom_id, method, url and body")  # fmt: skip
    place = f"/v1/files?purpose=batch&filename={quoted(file.name)}"
    sent = asked(url, place, Sent, data=data, kind="application/jsonl")
    about = msgspec.json.encode({"input_file_id": sent.id, "endpoint": first.url, "completion_window": "24h"})
    id = asked(url, "/v1/batches", Batch, data=about).id
    print(id, file=sys.stderr if wait else sys.stdout, flush=True)
    while wait and asked(url, place_of(id), Batch).status not in OVER:
        time.sleep(POLL_S)
    if wait:
        result(id, url=url)


def status(id: Id, *, url: Url = HERE,
           json: Annotated[bool, typer.Option("--json", help="Print the batch as JSON.")] = False) -> None:  # fmt: skip
    """How far a batch is."""
    data = fetched(url, place_of(id))
    found = understood(data, Batch, url=url)
    if json:
        print(msgspec.json.format(data, indent=-1).decode())
        return
    counts = found.request_counts
    print(f"{one_line(found.status)}: {counts.completed} of {counts.total} done, {counts.failed} failed")
    _tell_faults(found)


def result(id: Id, *, url: Url = HERE) -> None:
    """Print a batch's results, JSONL; requests that failed go to standard error, and the exit code is 1."""
    found = asked(url, place_of(id), Batch)
    if found.status not in OVER:
        raise RequestError(f"the batch is {found.status}: come again, or submit with --wait.")
    for file, stream in ((found.output_file_id, sys.stdout), (found.error_file_id, sys.stderr)):
        if file:
            stream.buffer.write(fetched(url, f"/v1/files/{quoted(file)}/content"))
            stream.buffer.flush()
    _tell_faults(found)
    if found.error_file_id or found.errors:
        raise typer.Exit(1)


def cancel(id: Id, *, url: Url = HERE) -> None:
    """Stop a batch; what is done of it can be had."""
    print(one_line(asked(url, f"{place_of(id)}/cancel", Batch, data=b"").status))


def _tell_faults(found: Batch) -> None:
    for fault in found.errors.data if found.errors else ():
        where = "" if fault.line is None else f"line {fault.line}: "
        print(f"{where}{one_line(fault.message)}", file=sys.stderr)


def place_of(id: str) -> str:
    """Of a batch, below the server's address. Raises RequestError for an empty id, which would mean all batches."""
    if not id.strip():
        raise RequestError("the id of the batch is empty: give what octavo batch submit printed.")
    return f"/v1/batches/{quoted(id)}"


def quoted(text: str) -> str:
    """As it may stand in an address."""
    from urllib.parse import quote  # slow to import, and help has to be fast

    return quote(encodable(text), safe="")


def asked(url: str, path: str, shape: type[T], *, data: bytes | None = None, kind: str = "application/json") -> T:
    """A JSON answer of the server. Raises RequestError with what it says, or OctavoError that it is not there."""
    return understood(fetched(url, path, data=data, kind=kind), shape, url=url)


def understood(data: bytes, shape: type[T], *, url: str) -> T:
    """An answer as what it has to be. Raises RequestError where it is anything else."""
    what = f"{url} does not answer as a server of batches; give the address of octavo serve with --url"
    return decode(data, shape, what=what, error=RequestError)


def fetched(url: str, path: str, *, data: bytes | None = None, kind: str = "application/json") -> bytes:
    """An answer of the server; as a POST where there is data. Raises as `asked`."""
    from http.client import HTTPException, InvalidURL
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    headers = {"content-type": kind}
    if key := os.environ.get("OCTAVO_API_KEY"):
        if not (key.isascii() and key.isprintable()):
            raise RequestError("OCTAVO_API_KEY holds characters that no key has: set it to what octavo keys printed.")
        headers["authorization"] = f"Bearer {key}"
    if not url.startswith(("http://", "https://")):
        raise RequestError(f"{url!r} is no address: give http://HOST:PORT.")
    try:
        with urlopen(Request(url.rstrip("/") + path, data=data, headers=headers), timeout=TIMEOUT_S) as answer:
            return answer.read()
    except HTTPError as cause:
        raise RequestError(_said(cause)) from cause
    except (InvalidURL, ValueError) as cause:  # among them UnicodeError, of names that cannot be looked up
        raise RequestError(f"{url!r} is no address ({cause}): give http://HOST:PORT.") from cause
    except (HTTPException, OSError) as cause:
        raise OctavoError(
            f"no server answers at {url} ({cause}): start one with octavo serve, or give --url."
        ) from cause


def _said(refusal: "HTTPError") -> str:
    from http.client import HTTPException

    try:
        return msgspec.json.decode(refusal.read(), type=Refused).error.message
    except (msgspec.DecodeError, UnicodeError, RecursionError, HTTPException, OSError):
        return f"the server answers with status {refusal.code}."


VERBS: dict[str, Callable[..., None]] = {"submit": submit, "status": status, "result": result, "cancel": cancel}

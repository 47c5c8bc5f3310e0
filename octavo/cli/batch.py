"""Batches at a running server: a file of requests goes there, results come back. The key is in OCTAVO_API_KEY."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from octavo.core.errors import OctavoError, RequestError

OVER = ("completed", "failed", "cancelled", "expired")
POLL_S, TIMEOUT_S = 1.0, 600
Url = Annotated[str, typer.Option("--url", help="Address of the server.")]
Id = Annotated[str, typer.Argument(help="What submit printed.")]
HERE = "http://127.0.0.1:8000"


def submit(
    file: Annotated[Path, typer.Argument(help="JSONL: custom_id, method POST, url, body.")],
    *,
    url: Url = HERE,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for it and print the results.")] = False,
) -> None:
    """Send a file of requests; prints the batch's id."""
    try:
        data = file.read_bytes()
        endpoint = msgspec.json.decode(data.split(b"\n", 1)[0])["url"]
    except OSError as cause:
        raise RequestError(f"{file} cannot be read ({cause.strerror}).") from cause
    except (msgspec.DecodeError, KeyError, TypeError) as cause:
        raise RequestError(f"{file}: the first line is no request with custom_id, method, url and body.") from cause
    sent = asked(url, f"/v1/files?purpose=batch&filename={quoted(file.name)}", data=data, kind="application/jsonl")
    about = msgspec.json.encode({"input_file_id": sent["id"], "endpoint": endpoint, "completion_window": "24h"})
    id = asked(url, "/v1/batches", data=about)["id"]
    print(id, file=sys.stderr if wait else sys.stdout, flush=True)
    while wait and asked(url, f"/v1/batches/{quoted(id)}")["status"] not in OVER:
        time.sleep(POLL_S)
    if wait:
        result(id, url=url)


def status(id: Id, *, url: Url = HERE,
           json: Annotated[bool, typer.Option("--json", help="Print the batch as JSON.")] = False) -> None:  # fmt: skip
    """How far a batch is."""
    found = asked(url, f"/v1/batches/{quoted(id)}")
    counts = found["request_counts"]
    line = f"{found['status']}: {counts['completed']} of {counts['total']} done, {counts['failed']} failed"
    print(msgspec.json.encode(found).decode() if json else line)
    if not json:
        _tell_errors(found)


def result(id: Id, *, url: Url = HERE) -> None:
    """Print a batch's results, JSONL; requests that failed go to standard error, and the exit code is 1."""
    found = asked(url, f"/v1/batches/{quoted(id)}")
    if found["status"] not in OVER:
        raise RequestError(f"the batch is {found['status']}: come again, or submit with --wait.")
    for field, stream in (("output_file_id", sys.stdout), ("error_file_id", sys.stderr)):
        if found[field]:
            stream.write(fetched(url, f"/v1/files/{quoted(found[field])}/content").decode())
    _tell_errors(found)
    if found["error_file_id"] or found["errors"]:
        raise typer.Exit(1)


def cancel(id: Id, *, url: Url = HERE) -> None:
    """Stop a batch; what is done of it can be had."""
    print(asked(url, f"/v1/batches/{quoted(id)}/cancel", data=b"")["status"])


def _tell_errors(found: dict[str, Any]) -> None:
    for one in (found["errors"] or {}).get("data", ()):
        print(f"line {one['line']}: {one['message']}", file=sys.stderr)


def quoted(text: str) -> str:
    """As it may stand in an address."""
    from urllib.parse import quote  # slow to import, and help has to be fast

    return quote(text, safe="")


def asked(url: str, path: str, *, data: bytes | None = None, kind: str = "application/json") -> Any:
    """A JSON answer of the server. Raises RequestError with what it says, or that it is not there."""
    return msgspec.json.decode(fetched(url, path, data=data, kind=kind))


def fetched(url: str, path: str, *, data: bytes | None = None, kind: str = "application/json") -> bytes:
    """An answer of the server; as a POST where there is data."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    headers = {"content-type": kind}
    if key := os.environ.get("OCTAVO_API_KEY"):
        headers["authorization"] = f"Bearer {key}"
    if not url.startswith(("http://", "https://")):
        raise RequestError(f"{url!r} is no address: give http://HOST:PORT.")
    try:
        with urlopen(Request(url.rstrip("/") + path, data=data, headers=headers), timeout=TIMEOUT_S) as answer:
            return answer.read()
    except HTTPError as cause:
        raise RequestError(_said(cause.read(), cause.code)) from cause
    except (URLError, OSError) as cause:
        raise OctavoError(
            f"no server answers at {url} ({cause}): start one with octavo serve, or give --url."
        ) from cause


def _said(body: bytes, code: int) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answers with status {code}."


VERBS: dict[str, Callable[..., None]] = {"submit": submit, "status": status, "result": result, "cancel": cancel}

"""Bytes over HTTPS into a file: resumed where it stopped, bounded, and checked against its digest."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from octavo.core.errors import HubError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row without a byte of progress
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
REDIRECTS = 10
ANSWER_LIMIT_BYTES = 64 << 20  # of a listing
SHA256, GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


class RemoteFile(Struct, frozen=True, kw_only=True):
    """A file to fetch. digest: sha256 of its bytes (64 digits) or their git blob id (40 digits); also its name in the
    cache, as `huggingface_hub` has it."""

    name: str
    size_bytes: int
    url: str
    digest: str


class _Interrupted(Exception):
    """The connection ended early or the server asked to wait: worth another attempt."""


class Web:
    """GET over HTTPS, or over HTTP from this machine itself, through the client that `huggingface_hub` brings."""

    def __init__(self, *, host: str, headers: Mapping[str, str], pause_s: float = PAUSE_S) -> None:
        """host: what messages call the other side;   headers: for it, and never sent on to another."""
        self.host, self.headers, self.pause_s = host, dict(headers), pause_s

    def read(self, url: str) -> bytes:
        """A whole answer, at most 64 MiB of it. Raises HubError."""

        def attempt() -> bytes:
            with self._open(url, start=0) as answer:
                body = bytearray()
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > ANSWER_LIMIT_BYTES:
                        raise HubError(f"{self.host} sends more than {ANSWER_LIMIT_BYTES:,} bytes as a list of files.")
                return bytes(body)

        return self._patiently(attempt, progress=lambda: 0)

    def fetch(self, file: RemoteFile, part: Path, *, moved: Callable[[int], None]) -> None:
        """Fill `part` with the file, from what it holds already on. Raises HubError; what came by then stays.

        moved   told of each step: bytes that have come, negative where some are thrown away
        """

        def attempt() -> None:
            start = min(_size(part), file.size_bytes)
            if start < file.size_bytes:
                with self._open(file.url, start=start) as answer:
                    self._append(answer, file, part, start=start, moved=moved)
            if _size(part) < file.size_bytes:
                raise _Interrupted(f"{file.name} ends at byte {_size(part):,} of {file.size_bytes:,}")

        part.touch()
        self._patiently(attempt, progress=lambda: _size(part))
        if digest_of(part, like=file.digest) != file.digest:
            part.unlink()
            raise HubError(f"{file.name} came from {self.host} with other bytes than its digest says. Try again; if it "
                           f"stays so, take the model from another place.")  # fmt: skip

    def _append(self, answer: Any, file: RemoteFile, part: Path, *, start: int, moved: Callable[[int], None]) -> None:
        if start and not (answer.status_code == 206 and _first_byte(answer) == start):
            moved(-start)  # the server does not resume: it sends the whole file
            start = 0
        with part.open("r+b", buffering=0) as out:
            out.truncate(start)
            out.seek(start)
            for chunk in answer.iter_bytes():
                start += len(chunk)
                if start > file.size_bytes:
                    out.truncate(0)
                    raise HubError(f"{self.host} sends more of {file.name} than the {file.size_bytes:,} bytes it has.")
                out.write(chunk)
                moved(len(chunk))

    def _patiently(self, attempt: Callable[[], Any], *, progress: Callable[[], int]) -> Any:
        """What `attempt` gives; again after a pause where the connection fails, as long as there is some progress."""
        broken, failures, pause_s = _network_errors(), 0, self.pause_s
        while True:
            before = progress()
            try:
                return attempt()
            except broken as cause:
                failures = 1 if progress() > before else failures + 1
                if failures == ATTEMPTS:
                    raise HubError(
                        f"{self.host} cannot be reached or breaks off ({type(cause).__name__}: {str(cause)[:200]}). "
                        f"Look at the network and try again: what has come is kept."
                    ) from cause
                time.sleep(pause_s * 2 ** (failures - 1))

    @contextmanager
    def _open(self, url: str, *, start: int) -> Generator[Any]:
        """The answer to a GET, its body not yet read. Follows redirects, each of them checked before it is asked."""
        from huggingface_hub.utils import get_session

        client: Any = get_session()
        headers = {**self.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        request = client.build_request("GET", url, headers=headers, timeout=TIMEOUT_S)
        for _ in range(REDIRECTS):
            check_url(str(request.url))
            answer = client.send(request, stream=True, follow_redirects=False)
            try:
                if answer.next_request is None:
                    self._check_status(answer, url)
                    yield answer
                    return
                request = answer.next_request  # the client leaves authorisation out of it where the host changes
            finally:
                answer.close()
        raise HubError(f"{url} is redirected more than {REDIRECTS} times.")

    def _check_status(self, answer: Any, url: str) -> None:
        code = answer.status_code
        if code in (200, 206):
            return
        if code in (408, 416, 429) or code >= 500:
            raise _Interrupted(f"status {code}")
        if code in (401, 403):
            raise HubError(f"{self.host} gives {url} only with permission (status {code}): the model does not "
                           f"exist, or its terms must be accepted on its page (then: hf auth login).")  # fmt: skip
        raise HubError(f"{self.host} has no {url} (status {code}): look the name up on its site.")


def check_url(url: str) -> None:
    """Raise HubError for anything but https; http is for a server on this machine itself."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")):
        raise HubError(
            f"{url} is not https: neither keys nor models go over a network in the clear. Name an https address."
        )


def digest_of(path: Path, *, like: str) -> str:
    """Of a file's bytes: sha256 where `like` has 64 digits, the git blob id where it has 40."""
    digest = hashlib.sha256()
    if GIT_SHA1.fullmatch(like):
        digest = hashlib.sha1(b"blob %d\0" % _size(path), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _network_errors() -> tuple[type[BaseException], ...]:
    """What a failed connection raises: in the client, whichever `huggingface_hub` brings, and in the system."""
    from huggingface_hub.utils import get_session

    library = sys.modules[type(get_session()).__module__.partition(".")[0]]
    return (_Interrupted, ConnectionError, TimeoutError, library.RequestError, library.StreamError, library.InvalidURL)


def _first_byte(answer: Any) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(match[1]) if match else -1


def _size(path: Path) -> int:
    return os.stat(path).st_size

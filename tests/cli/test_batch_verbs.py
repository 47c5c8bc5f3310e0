"""`octavo batch` at addresses that are none, and at servers that answer with anything."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from octavo.cli.batch import cancel, result, status, submit
from octavo.core.errors import OctavoError, RequestError

HTML = b"<html>It works</html>"
BATCH = (
    b'{"id": "batch_1", "status": "%s", "request_counts": {"total": 3, "completed": 2, "failed": 1}, "object": "batch",'
    b'"errors": {"data": [{"line": 2, "message": "no \\u001b[2J body"}, {"message": "more"}]}}'
)


@contextmanager
def answering(answer: bytes) -> Generator[str]:
    """A server that says the same to everybody; its address."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(body: bytes, *, code: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (code, len(body), body)


def submitted(id: str, *, url: str) -> None:
    """The fourth verb, which has a file instead of an id."""
    submit(Path(id), url=url)


VERBS: dict[str, Callable[..., None]] = {"status": status, "result": result, "cancel": cancel, "submit": submitted}


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "in.jsonl").write_bytes(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}\n')
    return str(tmp_path / "in.jsonl")


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "http://a b", "http://...", "http://[::1", "ftp://x", "",
                                 "http://127.0.0.1:99999999"])  # fmt: skip
def test_what_is_no_address_is_said(url: str):
    with pytest.raises(OctavoError, match=r"is no address|no server answers"):
        status("x", url=url)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("body", [HTML, b"", b"\xff", b"[]", b"{}", b'{"id": 3}', b'{"data": []}', b"[" * 100_000])
def test_an_answer_of_another_server_is_refused(verb: str, body: bytes, file: str):
    with answering(http(body)) as url, pytest.raises(RequestError, match="does not answer as a server of batches"):
        VERBS[verb](file, url=url)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http(b'{"error": {"message": "no such batch"}}', code=404), "no such batch"),
        (http(b'{"error": "no"}', code=404), "status 404"),
        (http(HTML, code=500), "status 500"),
        (http(HTML, code=500)[:-5], "status 500"),
        (http(HTML)[:-5], "no server answers"),
        (b"SSH-2.0-x\r\n", "no server answers"),
        (b"", "no server answers"),
    ],
)
def test_refusals_and_broken_answers_are_one_error(answer: bytes, says: str):
    with answering(answer) as url, pytest.raises(OctavoError, match=says):
        status("x", url=url)


@pytest.mark.parametrize("id", ["", " "])
@pytest.mark.parametrize("verb", [status, result, cancel])
def test_an_empty_id_is_refused_before_anybody_is_asked(verb: Callable[..., None], id: str):
    with pytest.raises(RequestError, match="id of the batch is empty"):
        verb(id, url="http://127.0.0.1:9")


@pytest.mark.parametrize("key", ["ключ", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_API_KEY", key)
    with pytest.raises(RequestError, match="OCTAVO_API_KEY"):
        status("x", url="http://127.0.0.1:9")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"url": 3}', b"\xff", b"[" * 100_000])
def test_a_file_of_no_requests_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(RequestError, match="first line is no request"):
        submit(tmp_path / "in", url="http://127.0.0.1:9")


def test_a_batch_is_told_and_what_is_wrong_with_it(capsys: pytest.CaptureFixture[str]):
    with answering(http(BATCH % b"failed")) as url:
        status("\udcff", url=url)  # bytes that are not UTF-8 are asked for as they can be
        told = capsys.readouterr()
        assert told.out == "failed: 2 of 3 done, 1 failed\n"
        assert told.err == "line 2: no ␛[2J body\nmore\n"
        status("x", url=url, json=True)
        assert '"object":"batch"' in capsys.readouterr().out
        with pytest.raises(typer.Exit):
            result("x", url=url)
    with answering(http(BATCH % b"in_progress")) as url, pytest.raises(RequestError, match="come again"):
        result("x", url=url)

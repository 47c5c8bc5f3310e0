"""Does batches: each line is a request that the server makes of itself, with the lowest priority and at half price."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.types import ASGIApp, Message, Scope

from octavo.serve.errors import Refusal
from octavo.serve.gateway.batches import OVER, Batch, Line, Owned, Shelf, checked, line_of, numbered
from octavo.serve.gateway.files import Files
from octavo.serve.gateway.gateway import INSIDE, Gateway

AT_ONCE = 8  # lines of one batch on their way
MOST_BATCHES = 16  # that go on at once; the others wait
TRIES = 5  # at a line whose request fails by no fault of its own
MOST_WAIT_S = 30.0
TELL_S = 1.0  # how often a batch that goes on says how far it is


class Runner:
    """All batches of this server.   app   does the requests: the whole server"""

    app: ASGIApp

    def __init__(self, gateway: Gateway, files: Files) -> None:
        self.gateway, self.files = gateway, files
        self.shelf = Shelf(gateway.db, run=gateway.run.id)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.turns = asyncio.Semaphore(MOST_BATCHES)

    def begin(self, app: ASGIApp) -> None:
        """Go on with what was left unfinished, by this server's forerunner."""
        self.app = app
        for owned in self.shelf.unfinished():
            self.start(owned)

    def start(self, owned: Owned) -> None:
        """Do a batch, from where it is."""
        task = asyncio.get_running_loop().create_task(self._bearing(owned))
        self.tasks[owned.batch.id] = task
        task.add_done_callback(lambda _: self.tasks.pop(owned.batch.id, None))

    async def stop(self) -> None:
        """Leave all as it is, for the next server."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def cancel(self, owned: Owned) -> Batch:
        """Stop a batch; what is done of it is given. Raises Refusal for one that is over."""
        batch, task = owned.batch, self.tasks.get(owned.batch.id)
        if task is None or batch.status in ("finalizing", "cancelling"):
            raise Refusal(f"the batch is {batch.status}: it cannot be cancelled.", kind="invalid_request_error")
        task.cancel()
        await asyncio.wait((task,))
        owned = self.shelf.find(batch.id, owner=owned.owner)
        if owned.batch.status in ("cancelling", *OVER):  # it ended in this moment, or another was faster to cancel it
            return owned.batch
        owned.batch.status, owned.batch.cancelling_at = "cancelling", int(time.time())
        self.shelf.put(owned.batch)
        self.start(owned)
        return owned.batch

    async def _bearing(self, owned: Owned) -> None:
        """Do it; where its files cannot be read or written, it has failed, and says so."""
        try:
            await self._do(owned)
        except OSError as cause:
            wrong = {
                "code": "file_lost",
                "line": None,
                "message": f"a file is gone or full: {cause.strerror}.",
                "param": None,
            }
            owned.batch.errors = {"object": "list", "data": [wrong]}
            owned.batch.status, owned.batch.failed_at = "failed", int(time.time())
            self.shelf.put(owned.batch)

    async def _do(self, owned: Owned) -> None:
        batch = owned.batch
        async with self.turns:
            if batch.status == "validating":
                await self._check(batch)
            if batch.status == "in_progress":
                await self._in_time(owned)
                batch.status, batch.finalizing_at = "finalizing", int(time.time())
                self.shelf.put(batch)
            if batch.status in ("finalizing", "cancelling"):
                await self.gateway.ledger.kept(self.gateway.ledger.given)  # lines that were done as it was cancelled
                await asyncio.to_thread(self._write_files, owned)
                self._count(batch, self.shelf.done_lines(batch.id))
                if batch.expired_at is not None:
                    batch.status = "expired"
                elif batch.status == "finalizing":
                    batch.status, batch.completed_at = "completed", int(time.time())
                else:
                    batch.status, batch.cancelled_at = "cancelled", int(time.time())
                self.shelf.put(batch)
                self.shelf.forget_lines(batch.id)

    async def _check(self, batch: Batch) -> None:
        path = self.files.path(batch.input_file_id)
        total, wrong = await asyncio.to_thread(lambda: checked(path, endpoint=batch.endpoint))
        batch.request_counts.total = total
        batch.errors = {"object": "list", "data": wrong} if wrong else None
        if wrong:
            batch.status, batch.failed_at = "failed", int(time.time())
        else:
            batch.status, batch.in_progress_at = "in_progress", int(time.time())
        self.shelf.put(batch)

    async def _in_time(self, owned: Owned) -> None:
        """Do the lines until the batch's time is over; those that are left then have failed, and say so."""
        batch = owned.batch
        try:
            async with asyncio.timeout(None if batch.expires_at is None else batch.expires_at - time.time()):
                await self._lines(owned)
        except TimeoutError:
            batch.expired_at = int(time.time())
            error = {"code": "batch_expired", "message": "the batch's completion window was over before its turn came."}
            done = self.shelf.done_lines(batch.id)
            for number, text in numbered(self.files.path(batch.input_file_id)):
                if number not in done:
                    line = line_of(text, endpoint=batch.endpoint)
                    result = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": None,
                              "error": error}  # fmt: skip
                    await self._keep(batch, number, result, good=False)

    async def _lines(self, owned: Owned) -> None:
        done, running = self.shelf.done_lines(owned.batch.id), set[asyncio.Task[None]]()
        self._count(owned.batch, done)
        told_s = time.monotonic()
        try:
            for number, text in numbered(self.files.path(owned.batch.input_file_id)):
                if number not in done:
                    line = line_of(text, endpoint=owned.batch.endpoint)
                    running.add(asyncio.ensure_future(self._line(owned, number, line)))
                if len(running) >= AT_ONCE:
                    running = _failing_none(*await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                if time.monotonic() - told_s >= TELL_S:
                    told_s = time.monotonic()
                    self.shelf.put(owned.batch)
            if running:
                _failing_none(*await asyncio.wait(running))
        finally:
            for task in running:
                task.cancel()
        self._count(owned.batch, self.shelf.done_lines(owned.batch.id))

    def _count(self, batch: Batch, done: Mapping[int, bool]) -> None:
        """Say how many lines are done, and of them how many went well."""
        good = sum(done.values())
        batch.request_counts.completed, batch.request_counts.failed = good, len(done) - good
        self.shelf.put(batch)

    async def _line(self, owned: Owned, number: int, line: Line) -> None:
        status, answer = await self._asked(owned, line)
        response = {"status_code": status, "request_id": answer["id"], "body": answer["body"]}
        result = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": response,
                  "error": None}  # fmt: skip
        await self._keep(owned.batch, number, result, good=status == 200)
        counts = owned.batch.request_counts
        counts.completed, counts.failed = counts.completed + (status == 200), counts.failed + (status != 200)

    async def _keep(self, batch: Batch, number: int, result: dict[str, Any], *, good: bool) -> None:
        """Put a line's result on file."""
        written = self.gateway.ledger.write(
            "INSERT OR IGNORE INTO lines (batch, line, good, result) VALUES (?, ?, ?, ?)",
            (batch.id, number, int(good), msgspec.json.encode(result) + b"\n"),
        )
        await self.gateway.ledger.kept(written)

    async def _asked(self, owned: Owned, line: Line) -> tuple[int, dict[str, Any]]:
        """Ask until there is an answer: a full queue is waited for, a fall of the engine is borne some times."""
        tries = 0
        while True:
            inside = f"{self.gateway.secret} {owned.key} {quote(owned.owner)}"
            answer = await posted(self.app, line.url, body=msgspec.json.encode(line.body), inside=inside)
            quota = answer.headers.get(b"x-should-retry") == b"false"
            again = (answer.status in (429, 503) and not quota) or (answer.status >= 500 and tries < TRIES)
            if not again:
                found = {"id": answer.headers.get(b"x-request-id", b"").decode(), "body": answer.value}
                return answer.status, found
            tries += answer.status not in (429, 503)
            wait_s = float(answer.headers.get(b"retry-after-ms", b"1000")) / 1e3
            await asyncio.sleep(min(MOST_WAIT_S, max(0.1, wait_s)))

    def _write_files(self, owned: Owned) -> None:
        """Results into files. Their names come from the batch's: whoever does this twice writes the same two."""
        batch = owned.batch
        connection = self.gateway.state.connect()
        shelf = Shelf(connection, run=self.gateway.run.id)
        for good, kind in ((True, "output"), (False, "error")):
            id = f"file-{batch.id.removeprefix('batch_')}-{kind}"
            path = self.files.path(id)
            with path.open("wb") as file:
                file.writelines(shelf.results(batch.id, good=good))
            if not path.stat().st_size:
                path.unlink()
                continue
            self.files.add(id, owner=owned.owner, name=f"{batch.id}_{kind}.jsonl", purpose="batch_output")
            if good:
                batch.output_file_id = id
            else:
                batch.error_file_id = id
        connection.close()


def _failing_none(done: set[asyncio.Task[None]], running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that still run. Raises what one of the others raised: a bug of ours."""
    for task in done:
        task.result()
    return running


class Answer:
    """A response, as it comes."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 500, dict[bytes, bytes](), b""

    async def send(self, message: Message) -> None:
        """What the application says."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")

    @property
    def value(self) -> Any:
        """Its JSON; text where it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return self.body.decode("utf-8", "replace")


async def posted(app: ASGIApp, path: str, *, body: bytes, inside: str) -> Answer:
    """The answer to a POST that never leaves this process."""
    pending, answer = [body], Answer()

    async def receive() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        await asyncio.Event().wait()  # this client does not go away
        raise AssertionError("it waits for ever")

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost"), (INSIDE.encode(), inside.encode()),
               (b"content-length", str(len(body)).encode())]  # fmt: skip
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 0),
    }  # fmt: skip
    send: Callable[[Message], Any] = answer.send
    await app(scope, receive, send)
    return answer

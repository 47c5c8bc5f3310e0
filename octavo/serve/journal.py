"""The server's log on standard error: one line for each request, never a word of a prompt or an answer."""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, Protocol

from octavo.serve import events
from octavo.serve.gate import Tenant
from octavo.serve.http import Doing

Kind = Literal["text", "json", "off"]

WELL = ("/health", "/metrics")


class Visited(Protocol):
    """What is known of an HTTP request once it is over."""

    id: str
    method: str
    path: str
    status: int
    tenant: Tenant | None
    began_s: float


class Journal:
    """Writes lines. It watches jobs, so that a request's line says what its job used.

    failed lines hold where a fault happened and of which kind it was; its message may quote a prompt, and stays out
    """

    def __init__(self, kind: Kind = "text", *, write: Callable[[str], object] | None = None) -> None:
        self.kind, self.write = kind, write or _to_stderr
        self.open: dict[str, dict[str, Any]] = {}  # request id -> what its job used

    def opened(self, id: str) -> None:
        """A request came: what its job uses is noted with it."""
        self.open[id] = {}

    def visited(self, visit: Visited) -> None:
        """It is over."""
        used = self.open.pop(visit.id, {})
        key = (
            {"key": visit.tenant.key, "workspace": visit.tenant.workspace} if visit.tenant and visit.tenant.key else {}
        )
        seconds = round(time.perf_counter() - visit.began_s, 4)
        if visit.path.startswith(WELL) and visit.status in (200, 503):
            return
        self._line("request", {"id": visit.id, "method": visit.method[:20], "path": visit.path[:200],
                               "status": visit.status, "seconds": seconds, **key, **used})  # fmt: skip

    def failed(self, id: str, cause: BaseException) -> None:
        """A fault of our own."""
        frames = [f"{f.filename.rpartition('site-packages/')[2]}:{f.lineno} {f.name}"
                  for f in traceback.extract_tb(cause.__traceback__)[-12:]]  # fmt: skip
        self._line("fault", {"id": id, "error": type(cause).__name__, "where": frames})

    def began(self, doing: Doing) -> None:
        """Noted when it ends."""

    def refused(self, kind: str) -> None:
        """Noted with its request."""

    def gap(self, doing: Doing, seconds: float) -> None:
        """Not noted."""

    def ended(self, doing: Doing, usage: events.Usage, *, finish: str) -> None:
        """What a job used: with the request's line, or a line of its own where it came with none, as a batch's do."""
        now_s, first_s = time.perf_counter(), doing.first_s
        used = {
            "model": doing.job.model, "dialect": doing.dialect, "finish": finish, "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens, "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens, "queue_s": round(doing.queued_s, 4),
            "first_token_s": round(first_s - doing.started_s, 4) if first_s else None,
            "job_s": round(now_s - doing.started_s, 4),
        }  # fmt: skip
        if doing.stream.id in self.open:
            self.open[doing.stream.id] = used
        else:
            self._line("job", {"id": doing.stream.id, "key": doing.tenant.key, **used})

    def handler(self) -> logging.Handler:
        """For what the HTTP library has to say."""
        return _Lines(self)

    def said(self, level: str, text: str) -> None:
        """A remark."""
        self._line("remark", {"level": level.lower(), "text": text})

    def _line(self, what: str, fields: dict[str, Any]) -> None:
        if self.kind == "off":
            return
        if self.kind == "json":
            line = json.dumps({"time": round(time.time(), 3), "event": what, **fields})
        else:
            shown = " ".join(f"{name}={_plain(value)}" for name, value in fields.items() if value not in (None, ""))
            line = f"{time.strftime('%H:%M:%S')} {what} {shown}"
        self.write(line + "\n")


class _Lines(logging.Handler):
    """The standard library's log records as remarks and faults."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.journal.failed("", record.exc_info[1])
        else:
            self.journal.said(record.levelname, record.getMessage()[:500])


def _plain(value: Any) -> str:
    """A value without what could forge a line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()

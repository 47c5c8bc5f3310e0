"""One row per request, in the database: entered when it begins, settled when it ends. Old rows become sums of days.

A thread writes what has come together meanwhile in one commit, so the event loop never waits for the disk.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from octavo.serve.events import Usage
from octavo.serve.gateway.limits import Meter, Need
from octavo.serve.gateway.state import State

MOST_AT_ONCE = 1024
AGAIN_S = 0.2  # after a commit that failed
KEPT_S = 5.0  # that a response waits for its row at most
# What SQLite says of a row that it cannot take: numbers beyond 64 bits, text that is no UTF-8, an id that is there.
NEVER = (OverflowError, ValueError, sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
ENTER = """INSERT INTO ledger (id, run, time, key, workspace, model, dialect, batch) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
SETTLE = """UPDATE ledger SET prompt = ?, cached = ?, output = ?, reasoning = ?, micro = ?, finish = ?, wait_ms = ?,
    first_ms = ?, total_ms = ? WHERE id = ? AND finish IS NULL"""
KEPT_DAYS, DAY_S = 90, 86400  # rows older than that are added to `days`, exactly, by a trigger, and go
SUM_UP = "DELETE FROM ledger WHERE time < ? AND finish IS NOT NULL"
SHOWN = {"key": "coalesce((SELECT name FROM keys WHERE id = key), key)", "model": "model",
         "day": "date(time, 'unixepoch')"}  # fmt: skip


class Entry(Struct, frozen=True, kw_only=True):
    """A request that begins."""

    id: str
    time: float
    key: str
    workspace: str
    model: str
    dialect: str
    batch: bool


class Outcome(Struct, frozen=True, kw_only=True):
    """How it ended. Milliseconds from its coming to its turn, to its first token (None: there was none), to its end."""

    usage: Usage
    micro: int
    finish: str
    wait_ms: float
    first_ms: float | None
    total_ms: float


class Ledger:
    """Writes rows, in the order in which they are given."""

    def __init__(self, state: State, *, run: str) -> None:
        self.run, self.db = run, state.connect()
        self.given = self.written = 0  # rows
        self.day = 0  # of the last request
        self.orders: queue.SimpleQueue[tuple[str, Sequence[Any]] | asyncio.Future[None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self.thread.start()

    def write(self, statement: str, values: Sequence[Any]) -> int:
        """Anything that shall be in the database after all that was given before. Returns its number."""
        self.given += 1
        self.orders.put((statement, values))
        return self.given

    def enter(self, entry: Entry) -> int:
        """A request begins. With the first of a day, what has become old is summed up."""
        e, day = entry, int(entry.time // DAY_S)
        if day != self.day:
            self.day = day
            self.write(SUM_UP, ((day - KEPT_DAYS) * DAY_S,))
        return self.write(ENTER, (e.id, self.run, e.time, e.key, e.workspace, e.model, e.dialect, int(e.batch)))

    def settle(self, id: str, outcome: Outcome) -> int:
        """It is over."""
        u, o = outcome.usage, outcome
        return self.write(SETTLE, (u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.reasoning_tokens, o.micro,
                                   o.finish, o.wait_ms, o.first_ms, o.total_ms, id))  # fmt: skip

    async def kept(self, number: int) -> None:
        """Wait until what has this number is in the database; not for ever, where it cannot be written."""
        if self.written >= number:
            return
        future = asyncio.get_running_loop().create_future()
        self.orders.put(future)
        await asyncio.wait((future,), timeout=KEPT_S)

    def close(self) -> None:
        """Write all, and end. Once is enough."""
        self.orders.put(None)
        self.thread.join()
        self.db.close()

    def _write(self) -> None:
        over = False
        while not over:
            orders = [self.orders.get()]
            while not self.orders.empty() and len(orders) < MOST_AT_ONCE:
                orders.append(self.orders.get())
            over = None in orders
            self._commit([order for order in orders if isinstance(order, tuple)], last=over)
            for order in orders:
                if isinstance(order, asyncio.Future):
                    _wake(order)

    def _commit(self, rows: Sequence[tuple[str, Sequence[Any]]], *, last: bool) -> None:
        """Again and again until it is done; what cannot be written before the end is lost, and said."""
        while True:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                for statement, values in rows:
                    self._put(statement, values)
                self.db.execute("COMMIT")
                self.written += len(rows)
                return
            except sqlite3.Error as cause:
                logging.getLogger(__name__).error("the ledger cannot be written: %s", cause)
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                if last:
                    return
                time.sleep(AGAIN_S)

    def _put(self, statement: str, values: Sequence[Any]) -> None:
        """One row. One that the database will never take is left out, and said: it must not hold up the others."""
        try:
            self.db.execute(statement, values)
        except NEVER as cause:
            logging.getLogger(__name__).error("a row is left out of the ledger: %s (%s)", cause, statement)


def _wake(future: "asyncio.Future[None]") -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))


def month_of(time_s: float) -> str:
    """The month of a Unix time, UTC."""
    return time.strftime("%Y-%m", time.gmtime(time_s))


def meters(db: sqlite3.Connection, *, month: str) -> dict[str, Meter]:
    """What every key has spent so far."""
    found: dict[str, Meter] = {}
    rows = db.execute(
        "SELECT key, sum(prompt + output) AS tokens, sum(micro) AS micro, "
        "sum(CASE WHEN strftime('%Y-%m', time, 'unixepoch') = :month THEN prompt + output ELSE 0 END) AS month_tokens, "
        "sum(CASE WHEN strftime('%Y-%m', time, 'unixepoch') = :month THEN micro ELSE 0 END) AS month_micro "
        "FROM spent GROUP BY key", {"month": month},
    )  # fmt: skip
    for row in rows:
        spent, this_month = Need(row["tokens"], row["micro"]), Need(row["month_tokens"], row["month_micro"])
        found[row["key"]] = Meter(month=month, spent=spent, spent_month=this_month)
    return found


def usage_by(db: sqlite3.Connection, what: str, *, since: float = 0.0) -> list[dict[str, Any]]:
    """Totals by key, model or day.   since   Unix time; days that are summed up count where they begin"""
    rows = db.execute(
        f"SELECT {SHOWN[what]} AS {what}, sum(requests) AS requests, sum(batch * requests) AS batch, "
        "sum(prompt) AS prompt, sum(cached) AS cached, sum(output) AS output, sum(reasoning) AS reasoning, "
        "sum(micro) AS micro, sum((finish = 'lost') * requests) AS lost, sum((finish = 'error') * requests) AS errors "
        "FROM spent WHERE time >= ? GROUP BY 1 ORDER BY 1",
        (since,),
    )
    return [{name: 0 if row[name] is None else row[name] for name in row.keys()} for row in rows]  # noqa: SIM118

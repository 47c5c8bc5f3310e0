"""The state folder: one SQLite database in WAL mode, files beside it, and which of the servers that share it live."""

import fcntl
import os
import secrets
import sqlite3
import sys
from pathlib import Path

from octavo.core.errors import ConfigError

DATABASE = "serve.db"
LOCK_WAIT_S = 30
TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, workspace TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE,
    created REAL NOT NULL, expires REAL, revoked REAL, terms TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (
    id TEXT PRIMARY KEY, run TEXT NOT NULL, time REAL NOT NULL, key TEXT NOT NULL, workspace TEXT NOT NULL,
    model TEXT NOT NULL, dialect TEXT NOT NULL, batch INTEGER NOT NULL,
    prompt INTEGER NOT NULL DEFAULT 0, cached INTEGER NOT NULL DEFAULT 0, output INTEGER NOT NULL DEFAULT 0,
    reasoning INTEGER NOT NULL DEFAULT 0, micro INTEGER NOT NULL DEFAULT 0, finish TEXT,
    wait_ms REAL, first_ms REAL, total_ms REAL);
CREATE INDEX IF NOT EXISTS ledger_by_key ON ledger (key, time);
CREATE INDEX IF NOT EXISTS ledger_open ON ledger (run) WHERE finish IS NULL;
CREATE TABLE IF NOT EXISTS days (
    time REAL NOT NULL, key TEXT NOT NULL, workspace TEXT NOT NULL, model TEXT NOT NULL, batch INTEGER NOT NULL,
    finish TEXT NOT NULL, requests INTEGER NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL,
    output INTEGER NOT NULL, reasoning INTEGER NOT NULL, micro INTEGER NOT NULL,
    PRIMARY KEY (time, key, workspace, model, batch, finish)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS ledger_into_days BEFORE DELETE ON ledger BEGIN
    INSERT INTO days VALUES (
        CAST(old.time / 86400 AS INT) * 86400.0, old.key, old.workspace, old.model, old.batch,
        coalesce(old.finish, 'lost'), 1, old.prompt, old.cached, old.output, old.reasoning, old.micro)
    ON CONFLICT DO UPDATE SET requests = requests + 1, prompt = prompt + old.prompt, cached = cached + old.cached,
        output = output + old.output, reasoning = reasoning + old.reasoning, micro = micro + old.micro;
END;
CREATE VIEW IF NOT EXISTS spent AS
    SELECT time, key, workspace, model, batch, finish, 1 AS requests, prompt, cached, output, reasoning, micro
    FROM ledger UNION ALL
    SELECT time, key, workspace, model, batch, finish, requests, prompt, cached, output, reasoning, micro FROM days;
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, key TEXT NOT NULL, run TEXT NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lines (
    batch TEXT NOT NULL, line INTEGER NOT NULL, good INTEGER NOT NULL, result BLOB NOT NULL,
    PRIMARY KEY (batch, line)) WITHOUT ROWID;
"""


def state_folder() -> Path:
    """Where the server keeps things: $OCTAVO_STATE, or a folder of the user's (XDG_DATA_HOME; macOS has its own)."""
    named = os.environ.get("OCTAVO_STATE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(home):
        mac = sys.platform == "darwin"
        home = os.path.expanduser("~/Library/Application Support" if mac else "~/.local/share")
    return Path(home) / "octavo"


class State:
    """A state folder, made where it is missing; for its owner's eyes only. Raises ConfigError."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "files"
        self.database = folder / DATABASE
        try:
            for place in (folder, self.files):
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(
                os.open(self.database, os.O_CREAT | os.O_RDWR, 0o600)
            )  # before SQLite, which would let others read
            with self.connect() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(TABLES)
            connection.close()
        except (OSError, sqlite3.Error) as cause:
            raise ConfigError(f"{folder} cannot hold the server's keys and usage ({cause}): name another folder with "
                              f"OCTAVO_STATE.") from cause  # fmt: skip

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit; for one thread at a time. A commit outlives this process, not a power cut."""
        connection = sqlite3.connect(self.database, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.row_factory = sqlite3.Row
        return connection


class Run:
    """One server's life. Its lock is let go when the process ends, however it ends.   id   marks what it has open"""

    def __init__(self, state: State) -> None:
        self.state, self.lock = state, None
        while self.lock is None:  # a server that starts beside us may try ours before it is locked
            self.id = secrets.token_hex(8)
            self.path = state.folder / f"run-{self.id}.lock"
            self.lock = self._locked(self.path)

    def close_the_dead(self, connection: sqlite3.Connection) -> None:
        """What servers left open that live no more: requests are lost, batches are ours to go on with."""
        for path in self.state.folder.glob("run-*.lock"):
            if path == self.path or (lock := self._locked(path)) is None:
                continue
            dead = path.stem.removeprefix("run-")
            connection.execute("UPDATE ledger SET finish = 'lost' WHERE run = ? AND finish IS NULL", (dead,))
            connection.execute("UPDATE batches SET run = ? WHERE run = ?", (self.id, dead))
            path.unlink(missing_ok=True)
            os.close(lock)

    def end(self) -> None:
        """A clean end: nothing is open, but for batches, which the next server goes on with."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _locked(self, path: Path) -> int | None:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file

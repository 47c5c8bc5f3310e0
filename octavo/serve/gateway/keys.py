"""API keys: made, shown once, known again by their hash."""

import hashlib
import hmac
import secrets
import sqlite3
import time
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.errors import ConfigError
from octavo.serve.errors import Refusal
from octavo.serve.gateway.limits import Terms

PREFIX = "ok-"
MADE = "SELECT 1 FROM keys WHERE sha256 = ?"
CHECK_S = 1.0  # a key that was revoked elsewhere works so long at most


class Key(Struct, frozen=True, kw_only=True):
    """A key. Times: Unix, seconds.   workspace   its keys share cached prompts, files and batches; "": it is alone"""

    id: str
    name: str
    workspace: str
    sha256: bytes
    created: float
    expires: float | None = None
    revoked: float | None = None
    terms: Terms = Terms()

    @property
    def space(self) -> str:
        """Who shares with it."""
        return f"workspace:{self.workspace}" if self.workspace else f"key:{self.id}"


def digest(text: str) -> bytes:
    """The hash that is kept of a key. Keys are random, so one round is enough."""
    return hashlib.sha256(text.encode()).digest()


def create(db: sqlite3.Connection, name: str, *, workspace: str = "", expires: float | None = None,
           terms: Terms = Terms()) -> tuple[Key, str]:  # fmt: skip
    """A new key, and its text, which is nowhere kept. Raises ConfigError where a living key has that name."""
    if any(key.name == name and key.revoked is None for key in every(db)):
        raise ConfigError(f"there is a key {name!r} already: revoke it first, or choose another name.")
    text = PREFIX + secrets.token_urlsafe(32)
    key = Key(id=f"key_{secrets.token_hex(8)}", name=name, workspace=workspace, sha256=digest(text),
              created=time.time(), expires=expires, terms=_checked(terms))  # fmt: skip
    db.execute(
        "INSERT INTO keys (id, name, workspace, sha256, created, expires, terms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.id, name, workspace, key.sha256, key.created, expires, msgspec.json.encode(terms).decode()),
    )
    return key, text


def every(db: sqlite3.Connection) -> list[Key]:
    """All keys, the oldest first."""
    return [_key(row) for row in db.execute("SELECT * FROM keys ORDER BY created, id")]


def named(db: sqlite3.Connection, name: str) -> Key:
    """The key of a name (the one that lives, where several had it) or id. Raises ConfigError."""
    found = [key for key in every(db) if name in (key.name, key.id)]
    if not found:
        raise ConfigError(f"there is no key {name!r}: octavo keys list shows those that there are.")
    return min(found, key=lambda key: key.revoked is not None)


def revoke(db: sqlite3.Connection, key: Key) -> None:
    """It opens nothing any more; its usage stays."""
    db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), key.id))


def change(db: sqlite3.Connection, key: Key, terms: Terms) -> None:
    """Other limits."""
    db.execute("UPDATE keys SET terms = ? WHERE id = ?", (msgspec.json.encode(_checked(terms)).decode(), key.id))


def _checked(terms: Terms) -> Terms:
    numbers = [n for one in (terms.limits, *terms.models.values()) for n in (one.rpm, one.tpm)]
    numbers += [n for one in (terms.month, terms.total) for n in (one.tokens, one.micro)]
    if any(n is not None and n < 0 for n in numbers) or not -8 <= terms.priority <= 8:
        raise ConfigError("limits and budgets must be 0 or more, a priority from -8 to 8.")
    return terms


def _key(row: sqlite3.Row) -> Key:
    values: dict[str, Any] = {**row, "terms": msgspec.json.decode(row["terms"], type=Terms)}
    return Key(**values)


class Keyring:
    """All keys in memory, as the database has them: others may add and revoke keys there while we run."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db, self.seen, self.checked_s = db, -1, 0.0
        self.by_hash: dict[bytes, Key] = {}
        self.by_id: dict[str, Key] = {}
        self._look()

    @property
    def empty(self) -> bool:
        """Whether no key was ever made: then nobody needs one."""
        self._refresh(CHECK_S if self.by_id else 0.0)  # who makes the first key closes the door at once
        return not self.by_id

    def find(self, text: str) -> Key:
        """The key with that text. Raises Refusal: authentication_error."""
        hashed = digest(text)
        just_made = hashed[:8] not in self.by_hash and self.db.execute(MADE, (hashed,)).fetchone() is not None
        self._refresh(0.0 if just_made else CHECK_S)
        key = self.by_hash.get(hashed[:8])
        if key is None or not hmac.compare_digest(key.sha256, hashed):
            raise Refusal("the API key is not known here: give one that `octavo keys create` made.",
                          kind="authentication_error", code="invalid_api_key")  # fmt: skip
        return self.alive(key.id)

    def alive(self, id: str) -> Key:
        """The key of an id. Raises Refusal where it is revoked or expired."""
        key = self.by_id.get(id)
        if key is None or key.revoked is not None or (key.expires is not None and key.expires <= time.time()):
            raise Refusal("the API key is revoked or has expired: ask for a new one.", kind="authentication_error",
                          code="invalid_api_key")  # fmt: skip
        return key

    def _refresh(self, most_s: float) -> None:
        if time.monotonic() - self.checked_s > most_s:
            self._look()

    def _look(self) -> None:
        """Read them again, if any other connection wrote since."""
        self.checked_s = time.monotonic()
        version = self.db.execute("PRAGMA data_version").fetchone()[0]
        if version != self.seen:
            self.seen = version
            keys = every(self.db)
            self.by_hash, self.by_id = {key.sha256[:8]: key for key in keys}, {key.id: key for key in keys}

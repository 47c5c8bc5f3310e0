"""Keys and the ledger of a server under test, by the verbs that a user has."""

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from octavo.serve.gateway import keys
from octavo.serve.gateway.limits import Terms
from octavo.serve.gateway.state import State
from tests.serve.serving import OCTAVO


class Desk:
    """What an operator does at a state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def octavo(self, *words: str, key: str = "", code: int = 0) -> str:
        """A verb's output."""
        env = {**os.environ, "OCTAVO_STATE": str(self.folder), "OCTAVO_API_KEY": key}
        done = subprocess.run([*OCTAVO, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return (done.stdout if code == 0 else done.stderr).strip()

    def key(self, name: str, *, workspace: str = "", terms: Terms = Terms()) -> dict[str, str]:
        """A new key, as headers."""
        db = State(self.folder).connect()
        _, text = keys.create(db, name, workspace=workspace, terms=terms)
        db.close()
        return {"authorization": f"Bearer {text}"}

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What the database holds."""
        connection = sqlite3.connect(self.folder / "serve.db")
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(query)]
        connection.close()
        return found


def chat(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a request."""
    return {
        "model": "mini",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 1,
        "seed": 1,
        **more,
    }


def jsonl(count: int, **more: Any) -> bytes:
    """A file for a batch."""
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": "/v1/chat/completions", "body": chat(f"Number {i}", **more)}
        for i in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

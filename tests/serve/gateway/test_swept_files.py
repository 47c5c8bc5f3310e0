"""What a server that was killed has left of files."""

import os
import time
from pathlib import Path

from octavo.serve.gateway.files import STALE_S, Files
from octavo.serve.gateway.state import State


def test_files_without_a_row_go_when_they_are_old(tmp_path: Path):
    state = State(tmp_path)
    files, old_s = Files(state), time.time() - STALE_S - 60
    for name in ("file-known", "file-lost", "file-half.part", "file-young.part"):
        (state.files / name).write_bytes(b"x")
        if "young" not in name:
            os.utime(state.files / name, (old_s, old_s))
    files.add("file-known", owner="o", name="n", purpose="p")
    Files(state)
    assert {path.name for path in state.files.iterdir()} == {"file-known", "file-young.part"}

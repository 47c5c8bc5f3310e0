"""Real servers on loopback, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

OCTAVO = [sys.executable, "-c", "from octavo.cli.main import run; run()"]
STARTED = re.compile(r"serves on (http://\S+)")


class Served:
    """A server that runs.   url: without a slash at its end;   log: what it wrote to stderr"""

    def __init__(self, process: "subprocess.Popen[bytes]", *, url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.client = httpx.Client(base_url=url, timeout=60)

    def ready(self, *, key: dict[str, str], timeout_s: float = 60) -> None:
        """Wait until models answer.   key   headers that hold one, where one is needed"""
        end_s = time.monotonic() + timeout_s
        while self.client.get("/health/ready", headers=key).status_code != 200:
            assert time.monotonic() < end_s, f"not ready after {timeout_s} s:\n{self.log.read_text()}"
            time.sleep(0.05)

    def stop(self, *, sign: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Stop it; its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(timeout_s)


@contextmanager
def serving(models: Sequence[str], *, folder: Path, options: Sequence[str] = (), env: dict[str, str] | None = None,
            wait: bool = True, key: dict[str, str] | None = None) -> Iterator[Served]:  # fmt: skip
    """`octavo serve MODELS --port 0 OPTIONS`; its log goes to `folder`.

    wait   until the first model answers;   key   headers that hold one, where the state has keys already
    """
    log = folder / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*OCTAVO, "serve", *models, "--port", "0", *options],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, "OCTAVO_STATE": str(folder), **(env or {})},
        )  # fmt: skip
    try:
        end_s = time.monotonic() + 60
        while not (found := STARTED.search(log.read_text())):
            assert process.poll() is None and time.monotonic() < end_s, f"it did not start:\n{log.read_text()}"
            time.sleep(0.02)
        served = Served(process, url=found.group(1), log=log)
        if wait:
            served.ready(key=key or {})
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

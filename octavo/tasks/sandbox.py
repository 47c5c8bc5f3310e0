"""Programs in processes of their own, so that one that hangs, or takes all the memory, can be ended."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from octavo.core.errors import TaskError

START_S = 60.0  # a start imports sympy: below a second on an idle machine


class Worker:
    """A program that answers questions, one line of JSON for one; it starts with the first and ends with this process.

    program     a Python file that needs nothing of this package. It says "ready" first, as a line of JSON
    answer_s    an answer that takes longer is None, and the program starts anew

    Threads may share it: one question is asked at a time.
    """

    def __init__(self, program: Path, *, answer_s: float) -> None:
        self.program, self.answer_s = program, answer_s
        self._process: subprocess.Popen[str] | None = None
        self._lines = queue.Queue[str]()
        self._lock = threading.Lock()
        self._owner = 0

    def ask(self, question: Any) -> Any:
        """What it answers; None where it is late or has ended. Raises TaskError where it cannot start."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None or self._owner != os.getpid():
                process = self._start()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=self.answer_s)
            except (queue.Empty, OSError):
                line = ""
            if not line:
                self._end()
                return None
            return json.loads(line)

    def close(self) -> None:
        """End the program; the next question starts it again."""
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[str]:
        self._lines, self._owner = queue.Queue(), os.getpid()
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", str(self.program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip
        threading.Thread(target=_listen, args=(process, self._lines), daemon=True).start()
        try:
            said = self._lines.get(timeout=START_S)
        except queue.Empty:
            said = ""
        if said.strip() != '"ready"':
            process.kill()
            reason = (process.stderr.read() if process.stderr else "").strip().splitlines()
            self._end()
            raise TaskError(f"{self.program.name} did not start: {reason[-1] if reason else 'it said nothing'}.")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stderr):
                if pipe is not None:
                    pipe.close()


def _listen(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Lines as they come; an empty one at the end."""
    assert process.stdout is not None
    with process.stdout as said:
        for line in said:
            lines.put(line)
    lines.put("")

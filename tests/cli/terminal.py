"""A terminal for tests: the program runs in a real pseudo-terminal, and an emulator reads what it draws."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte

ROOT = Path(__file__).resolve().parents[2]
CTRL_C, CTRL_D, ENTER, ALT_ENTER = "\x03", "\x04", "\r", "\x1b\r"


class Terminal:
    """A program in a terminal of `columns` x `lines`. `text` is all that it shows, what scrolled away included."""

    def __init__(self, command: list[str], *, state: Path, columns: int = 80, lines: int = 24,
                 env: Mapping[str, str] = {}) -> None:  # fmt: skip
        self.screen = pyte.HistoryScreen(columns, lines, history=5000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.raw = ""
        given = {"TERM": "xterm-256color", "XDG_STATE_HOME": str(state), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.child = pexpect.spawn(command[0], command[1:], dimensions=(lines, columns), encoding="utf-8",
                                   codec_errors="replace", env={**kept, **given, **env}, cwd=str(ROOT))  # fmt: skip
        self.child.delaybeforesend = None
        self.screen.write_process_input = self.child.send  # answers the program's questions, as terminals do

    @property
    def text(self) -> str:
        above = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip()

    @property
    def shown(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def read(self, *, seconds: float = 0.05) -> None:
        """Read what the program writes within some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                piece = self.child.read_nonblocking(65536, timeout=left)
            except (pexpect.TIMEOUT, pexpect.EOF):
                time.sleep(0.005)
                continue
            self.raw += piece
            self.stream.feed(piece)

    def wait(self, seen: str | Callable[[str], bool], *, timeout_s: float = 20) -> str:
        """Read until the text shown holds `seen`, wherever its lines break, or `seen(text)`; fails with a picture."""
        test = seen if callable(seen) else lambda text: seen in text or seen in " ".join(text.split())
        end = time.monotonic() + timeout_s
        while not test(self.text):
            assert time.monotonic() < end, f"{seen!r} was not shown in {timeout_s} s. The terminal:\n{self.text}"
            self.read()
        return self.text

    def prompt(self, count: int, *, timeout_s: float = 20) -> None:
        """Wait until the program has asked `count` times."""
        self.wait(
            lambda text: sum(line == ">" or line.startswith("> ") for line in text.split("\n")) >= count,
            timeout_s=timeout_s,
        )
        self.read()

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    def exit_code(self, *, timeout_s: float = 10) -> int:
        """Wait for the end of the program."""
        end = time.monotonic() + timeout_s
        while self.child.isalive():
            assert time.monotonic() < end, f"the program does not end. The terminal:\n{self.text}"
            self.read()
        self.read()
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0)


def scripted(options: dict) -> list[str]:
    """The command that talks to a scripted chat."""
    return [sys.executable, "-m", "tests.cli.scripted", json.dumps(options)]

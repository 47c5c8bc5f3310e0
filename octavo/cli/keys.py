"""Where messages come from: an editable prompt with history in a terminal, or the lines of a pipe."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from octavo.cli.clean import encodable

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

LEAVE = "Ctrl-D or /quit leaves."


class Reader(Protocol):
    """Gives one message after the other."""

    def read(self, offered: str = "") -> str | None:
        """The next message; None at the end. offered: text to begin with, where it can be edited."""
        ...


class LineReader:
    """Messages from a pipe: one line each; a line that ends with a backslash goes on in the next."""

    def __init__(self, lines: Iterable[str] | None = None) -> None:
        self.lines: Iterator[str] = iter(sys.stdin if lines is None else lines)

    def read(self, offered: str = "") -> str | None:
        """The next message; None at the end."""
        parts: list[str] = []
        for line in self.lines:
            text = line.rstrip("\r\n")
            if not text.endswith("\\"):
                return encodable("\n".join([*parts, text]))
            parts.append(text.removesuffix("\\"))
        return encodable("\n".join(parts)) if parts else None


def state_file(name: str) -> Path:
    """A file in the user's state folder (XDG_STATE_HOME, as the XDG Base Directory Specification 0.8 says)."""
    home = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~")) / ".local" / "state"
    return folder / "octavo" / name


class PromptReader:
    """Messages typed by a person. Enter sends, Alt-Enter or a backslash before Enter begins a line."""

    def __init__(self, note: Callable[[str], None], *, words: Iterable[str] = ()) -> None:
        """note: shows a remark;   words: what Tab completes at the beginning."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter

        self.note = note
        self.session: PromptSession[str] = PromptSession(
            message="> ", prompt_continuation="  ", multiline=True, history=_history(note), key_bindings=_bindings(),
            completer=WordCompleter([*words], sentence=True), complete_while_typing=False, enable_suspend=True,
        )  # fmt: skip

    def read(self, offered: str = "") -> str | None:
        """The next message; None after Ctrl-D. Ctrl-C empties the prompt, and an empty one says how to leave."""
        while True:
            try:
                return encodable(self.session.prompt(default=offered))
            except KeyboardInterrupt:
                self.note(LEAVE)
                offered = ""
            except EOFError:
                return None


def _bindings() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    def send(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end_of_line:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def begin_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    def clear(event: "KeyPressEvent") -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    bindings.add("enter")(send)
    bindings.add("escape", "enter")(begin_line)
    bindings.add("c-c")(clear)
    return bindings


def _history(note: Callable[[str], None]) -> "History":
    """History in the state folder; of this session alone, with a remark, where that cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = state_file("history")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as cause:
        note(f"{path} cannot be written ({cause.strerror}): what you type is remembered until you leave.")
        return InMemoryHistory()
    return FileHistory(str(path))

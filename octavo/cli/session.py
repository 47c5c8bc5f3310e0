"""A conversation: what was said, under which settings; and how it is kept in a file."""

import os
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from octavo.cli.files import whole
from octavo.cli.settings import Settings
from octavo.core.errors import OctavoError, RequestError
from octavo.core.messages import Message
from octavo.core.strict import decode

LIMIT_BYTES = 256 << 20


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation, as it stands and as a saved file holds it. No system message is among them: that is a setting."""

    octavo_chat: int = 1  # version of the file's layout
    model: str = ""
    settings: Settings = Settings()
    messages: tuple[Message, ...] = ()

    def prompt(self) -> tuple[Message, ...]:
        """What the model is given: the system message, where there is one, and all that was said."""
        first = (Message(role="system", content=self.settings.system),) if self.settings.system else ()
        return first + self.messages

    def saying(self, message: Message) -> "Session":
        """With one more message."""
        return replace(self, messages=(*self.messages, message))

    def reopened(self) -> "Session":
        """Back to the last message of the user, which waits for an answer again. Raises RequestError without one."""
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if not asked:
            raise RequestError("There is no message to answer once more: type one.")
        return replace(self, messages=self.messages[: asked[-1] + 1])


def file_named(text: str) -> Path:
    """The file that the user means; ~ is the home folder. Raises RequestError for what cannot be a file's name."""
    if "\0" in text or not text.strip():
        raise RequestError(f"{text!r} cannot be a file's name: choose another one.")
    try:
        return Path(text).expanduser()
    except RuntimeError as cause:
        raise RequestError(f"{text} names a home folder that cannot be found: write the path in full.") from cause


def save(session: Session, path: Path, *, replacing: bool) -> int:
    """Write the whole conversation or nothing; returns the bytes written.

    Raises RequestError where the file exists and `replacing` is False, or where it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(session), indent=1) + b"\n"
    try:
        if not replacing and path.exists():
            raise RequestError(f"{path} exists: /save! {path} replaces it, or choose another name.")
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as cause:
        raise RequestError(f"{path} cannot be written ({cause.strerror}): choose another place.") from cause
    return len(data)


def load(path: Path) -> Session:
    """The conversation in a file. Raises RequestError for a file that is missing, not ours, or only half there."""
    session = _decoded(whole(path, most_bytes=LIMIT_BYTES, needed="a file that /save wrote"), path)
    if session.octavo_chat != 1:
        raise RequestError(f"{path} has layout {session.octavo_chat}, this Octavo knows 1: use a newer Octavo.")
    if any(message.role == "system" for message in session.messages):
        raise RequestError(f"{path} has a system message among its messages: put it into settings.system.")
    return session


def _decoded(data: bytes, path: Path) -> Session:
    error: type[OctavoError] = RequestError
    if b'"octavo_chat"' not in data:
        raise error(f"{path} is no saved conversation: name a file that /save wrote.")
    return decode(data, Session, what=f"{path} is damaged or was changed by hand", error=error)

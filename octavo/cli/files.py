"""Files that the user names are read up to a limit: a device has no end, and a pipe perhaps nobody who writes."""

import stat
from pathlib import Path

from octavo.cli.clean import one_line
from octavo.core.errors import RequestError


def whole(path: Path, *, most_bytes: int, needed: str, pipes: bool = False) -> bytes:
    """All of a file that has at most `most_bytes`; the rest is as for `beginning`."""
    data = beginning(path, most_bytes=most_bytes + 1, needed=needed, pipes=pipes)
    if len(data) > most_bytes:
        raise RequestError(f"{one_line(str(path))} has more than {most_bytes:,} bytes, too many: name {needed}.")
    return data


def beginning(path: Path, *, most_bytes: int, needed: str, pipes: bool = False) -> bytes:
    """The first `most_bytes` of a file.

    needed   what the user is to name, as the error says it;   pipes   whether a pipe will do, or `<(...)` of a shell
    Raises RequestError for a file that cannot be read, and for what is no file.
    """
    shown = one_line(str(path))
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or (pipes and stat.S_ISFIFO(kind))):
            raise RequestError(f"{shown} cannot be read (it is no ordinary file): name {needed}.")
        with path.open("rb") as file:
            return file.read(most_bytes)
    except OSError as cause:
        raise RequestError(f"{shown} cannot be read ({cause.strerror}): name {needed}.") from cause

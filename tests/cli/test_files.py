"""Files that a user names: read whole, or refused at once; no device fills memory and no pipe hangs."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from octavo.cli.files import beginning, whole
from octavo.cli.quantize import MOST_CHARACTERS, read_text
from octavo.cli.run import MOST_SCHEMA_BYTES, read_schema
from octavo.cli.session import load
from octavo.core.errors import RequestError

READERS: dict[str, Callable[[Path], object]] = {"schema": read_schema, "session": load, "text": read_text}


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A gigabyte more than there is now: what reads without end fails and takes nothing from others."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", ["/dev/zero", ".", "none.json"])
def test_what_is_no_file_is_refused_and_named(reader: str, path: str):
    with pytest.raises(RequestError, match=f"{path} cannot be read .*: name a"):
        READERS[reader](Path(path))


@pytest.mark.timeout(20)
def test_a_pipe_that_nobody_writes_to_is_no_conversation(pipe: Path):
    with pytest.raises(RequestError, match="pipe cannot be read"):
        load(pipe)


@pytest.mark.timeout(20)
def test_a_schema_may_come_from_a_pipe(pipe: Path):
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"type": "integer"}',))
    writer.start()
    assert read_schema(pipe) == {"type": "integer"}
    writer.join()


def test_a_schema_has_a_limit_and_of_a_text_the_beginning_is_read(tmp_path: Path):
    path = tmp_path / "large"
    path.write_bytes(b" " * (MOST_SCHEMA_BYTES + 1))
    with pytest.raises(RequestError, match="large has more than 16,777,216 bytes"):
        read_schema(path)
    assert len(read_text(path)) >= MOST_CHARACTERS


@pytest.mark.parametrize("size", [0, 1, 4, 5, 9])
def test_a_file_is_read_up_to_its_limit(size: int, tmp_path: Path):
    path, data = tmp_path / "f", bytes(range(size))
    path.write_bytes(data)
    assert beginning(path, most_bytes=4, needed="a file") == data[:4]
    if size <= 4:
        assert whole(path, most_bytes=4, needed="a file") == data
        return
    with pytest.raises(RequestError, match="more than 4 bytes"):
        whole(path, most_bytes=4, needed="a file")

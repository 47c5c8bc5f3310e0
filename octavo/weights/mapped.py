"""A file in memory without being read: the one way from disk to numbers."""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from octavo.core.errors import CheckpointError

PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)  # MAP_NORESERVE: files larger than memory too


class MappedFile:
    """A private, writable map: pages are read when touched, and what a tensor writes never reaches the disk.

    path, size_bytes   of the file when it was opened; it must not shrink while it is open
    """

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for a file that is missing, unreadable or empty."""
        self.path = path
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as cause:  # ValueError: an empty file cannot be mapped
            reason = cause.strerror if isinstance(cause, OSError) else "it is empty"
            raise CheckpointError(f"{path} cannot be opened ({reason}): download it again.") from cause
        self.size_bytes = len(self.map)

    def array(self, dtype: DTypeLike, shape: tuple[int, ...], *, start: int) -> NDArray[Any]:
        """A view of the bytes from `start` on; a copy where the file does not align them. Bounds are the caller's."""
        numbers = np.frombuffer(self.map, dtype, count=math.prod(shape), offset=start).reshape(shape)
        return numbers if numbers.flags.aligned else numbers.copy()

    def prefetch(self, start: int, end: int) -> None:
        """Have the system read a range of the file in the background: at once, not page by page as it is touched."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            self.map.madvise(mmap.MADV_WILLNEED, first, end - first)

    def release(self, start: int, end: int) -> None:
        """Give the whole pages of a range back to the system. What was written to them is lost, the file is not."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE if end < self.size_bytes else end
        if last > first:
            self.map.madvise(mmap.MADV_DONTNEED, first, last - first)


def bytes_of(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """An array as rows of bytes: (all axes but the last, bytes of a row). A view where the array has no gaps."""
    shape = numbers.shape or (1,)
    rows = numbers.reshape(math.prod(shape[:-1]), shape[-1])
    return np.ascontiguousarray(rows).view(np.uint8)

"""One safetensors file: its header checked to the byte, its tensors as views of the file.

Source of the layout: the format section of the safetensors project's README.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError
from octavo.weights.mapped import MappedFile, bytes_of
from octavo.weights.numbers import NUMBERS

if TYPE_CHECKING:
    import torch

HEADER_LIMIT_BYTES = 100_000_000  # as in the official reader


class Stored(NamedTuple):
    """A tensor in a file: bytes start .. end of the file, row-major, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """An open file; `tensors` says what is in it."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for anything that the format does not allow."""
        self.file = MappedFile(path)
        self.tensors = _read_header(self.file)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.file.size_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self.tensors[name].shape

    def dtype_name(self, name: str) -> str:
        """Of one tensor, as the header has it."""
        return self.tensors[name].dtype

    def array(self, name: str) -> NDArray[Any]:
        """A view of the file: nothing is read until it is touched."""
        stored = self.tensors[name]
        return self.file.array(NUMBERS[stored.dtype].bits, stored.shape, start=stored.start)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of its rows."""
        return bytes_of(self.array(name))

    def tensor(self, name: str) -> torch.Tensor:
        """A copy of one tensor, in its own type."""
        import torch

        kind = getattr(torch, NUMBERS[self.dtype_name(name)].torch)
        return torch.from_numpy(self.raw(name).copy()).view(-1).view(kind).view(self.shape(name))

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk."""
        self.file.prefetch(self.tensors[name].start, self.tensors[name].end)

    def release(self, name: str) -> None:
        """Give the tensor's memory back; a view of it stays valid, less what was written to it."""
        self.file.release(self.tensors[name].start, self.tensors[name].end)


def _read_header(file: MappedFile) -> dict[str, Stored]:
    where, again = file.path.name, "The file is damaged: download it again."
    length = int.from_bytes(file.map[:8], "little")
    if file.size_bytes < 8 or length > min(HEADER_LIMIT_BYTES, file.size_bytes - 8):
        raise CheckpointError(f"{where}: a header of {length:,} bytes in a file of {file.size_bytes:,}. {again}")
    raw = file.map[8 : 8 + length]
    try:
        if raw[:1] != b"{":
            raise ValueError("it does not begin with {")
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"{where}: the header is not valid JSON ({cause}). {again}") from cause
    header.pop("__metadata__", None)
    tensors = {name: _entry(entry, name=name, where=where) for name, entry in header.items()}
    place = 0
    for name, stored in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if stored.start != place:
            raise CheckpointError(f"{where}: {name[:80]} begins at byte {stored.start:,} of the data, {place:,} was "
                                  f"due (tensors may neither overlap nor leave gaps). {again}")  # fmt: skip
        place = stored.end
    if place != file.size_bytes - 8 - length:
        raise CheckpointError(
            f"{where}: the header promises {place:,} bytes of tensors, the file holds "
            f"{file.size_bytes - 8 - length:,}. The file is cut off or damaged: download it again."
        )
    return {name: s._replace(start=s.start + 8 + length, end=s.end + 8 + length) for name, s in tensors.items()}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _entry(entry: Any, *, name: str, where: str) -> Stored:
    short = name[:80]
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: the entry of {short!r} is no dtype, shape and data_offsets. Download it again."
        )
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in NUMBERS:
        raise CheckpointError(
            f"{where}: {short} has dtype {str(kind)[:40]!r}, Octavo reads {', '.join(NUMBERS)}. Choose another variant."
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise CheckpointError(f"{where}: {short} has a shape or offsets that cannot be. Download it again.")
    start, end = offsets
    needed = math.prod(shape) * NUMBERS[kind].size_bytes
    if end - start != needed:
        raise CheckpointError(
            f"{where}: {short} of shape {shape} in {kind} needs {needed:,} bytes, the header gives it {end - start:,}. "
            f"The file is damaged: download it again."
        )
    return Stored(kind, tuple(shape), start, end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 60 for item in value)

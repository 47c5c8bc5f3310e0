"""The head of a GGUF file: metadata and where each tensor lies, with every count and offset checked.

The `gguf` package's own reader walks arrays item by item (seconds for a vocabulary) and trusts the counts it finds, so
it is not used here. Source of the layout: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError
from octavo.weights.gguf_blocks import BLOCKS
from octavo.weights.mapped import MappedFile

# value type in the file -> struct format of one value
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
WINDOW_BYTES = 64  # per string of an array that is read at once; those of a vocabulary have 6 or so
KEYS_LIMIT, TENSORS_LIMIT, ALIGNMENT_LIMIT = 65_536, 1_000_000, 1 << 20


class GgufTensor(NamedTuple):
    """A tensor in a file: bytes start .. end; shape as in torch, outermost axis first."""

    type: str
    shape: tuple[int, ...]
    start: int
    end: int


class GgufHeader(NamedTuple):
    """fields: key -> plain Python value;   tensors: name in the file -> where it lies."""

    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(file: MappedFile) -> GgufHeader:
    """The checked head of a file.

    Raises CheckpointError for a file that is cut off, damaged, split, or of another version, byte order or type.
    """
    return _Walk(file).header()


class _Walk:
    """Reads forward through the head and never past the file's end."""

    def __init__(self, file: MappedFile) -> None:
        self.path: Path = file.path
        self.data, self.size, self.place = file.map, file.size_bytes, 0

    def fault(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name}: {found}. The file is cut off or damaged: download it again.")

    def header(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise CheckpointError(f"{self.path.name} does not begin with GGUF: it is no GGUF file, name another.")
        self.place = 4
        version = self.number("I")
        if version not in (2, 3):
            raise CheckpointError(
                f"{self.path.name} is GGUF version {version}, Octavo reads 2 and 3 in little-endian order: convert it."
            )
        tensors, keys = self.number("Q"), self.number("Q")
        if tensors > TENSORS_LIMIT or keys > KEYS_LIMIT:
            raise self.fault(f"it claims {tensors:,} tensors and {keys:,} metadata keys")
        fields: dict[str, Any] = {}
        for _ in range(keys):
            key = self.text()
            if key in fields:
                raise self.fault(f"the metadata key {key[:80]!r} occurs twice")
            fields[key] = self.value(self.number("I"))
        return GgufHeader(fields, self.tensors(tensors, alignment=self.alignment(fields)))

    def take(self, size: int) -> int:
        """Step over `size` bytes; returns where they begin."""
        start = self.place
        if size > self.size - start:
            raise self.fault(f"{size:,} bytes are needed at byte {start:,} of {self.size:,}")
        self.place = start + size
        return start

    def number(self, kind: str) -> int:
        size = struct.calcsize("<" + kind)
        return struct.unpack_from("<" + kind, self.data, self.take(size))[0]

    def text(self) -> str:
        start = self.take(self.number("Q"))
        try:
            return self.data[start : self.place].decode("utf-8")
        except UnicodeDecodeError as cause:
            raise self.fault(f"the text at byte {start:,} is not UTF-8") from cause

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise self.fault(f"metadata of the unknown type {kind} before byte {self.place:,}")
        return self.number(SCALARS[kind])

    def array(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return self.texts(count)
        if kind not in SCALARS:
            raise self.fault(f"an array of the unknown type {kind} before byte {self.place:,}")
        start = self.take(count * struct.calcsize("<" + SCALARS[kind]))
        return list(struct.unpack_from(f"<{count}{SCALARS[kind]}", self.data, start))

    def texts(self, count: int) -> list[str]:
        """`count` strings, as opening a file spends its time on: those of a vocabulary all at once, others in turn."""
        if count > (self.size - self.place) // 8:
            raise self.fault(f"an array of {count:,} strings at byte {self.place:,} of {self.size:,}")
        size = min(self.size - self.place, count * WINDOW_BYTES)
        found, length = short_texts(np.frombuffer(self.data, np.uint8, size, self.place), count)
        if found is None:
            return [self.text() for _ in range(count)]
        self.place += length
        return found

    def alignment(self, fields: dict[str, Any]) -> int:
        value = fields.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= ALIGNMENT_LIMIT or value & (value - 1):
            raise self.fault(f"general.alignment is {value!r:.80}, a power of two was needed")
        if fields.get("split.count", 0) not in (0, 1):
            raise CheckpointError(
                f"{self.path.name} is one of several parts of a model: merge them with llama.cpp's gguf-split first."
            )
        return value

    def tensors(self, count: int, *, alignment: int) -> dict[str, GgufTensor]:
        labels = {block.number: label for label, block in BLOCKS.items()}
        found: dict[str, GgufTensor] = {}
        for _ in range(count):
            name, axes = self.text(), self.number("I")
            if not 1 <= axes <= 4 or name in found:
                raise self.fault(f"tensor {name[:80]!r} occurs twice or has {axes} axes")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]
            kind, start = self.number("I"), self.number("Q")
            if kind not in labels:
                raise CheckpointError(
                    f"{self.path.name}: {name[:80]} is stored as GGUF type {kind}, Octavo reads "
                    f"{', '.join(BLOCKS)}. Choose one of these files of the model."
                )
            label = labels[kind]
            block = BLOCKS[label]
            numbers = math.prod(shape)
            if not 0 < numbers < 1 << 60 or shape[-1] % block.weights or start % alignment:
                raise self.fault(f"{name[:80]} has shape {shape} of {label} at byte {start:,}")
            found[name] = GgufTensor(label, shape, start, start + numbers // block.weights * block.size_bytes)
        base = -(-self.place // alignment) * alignment
        place, last = 0, "the header"
        for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
            if tensor.start < place or base + tensor.end > self.size:
                raise self.fault(f"{name[:80]} lies at {tensor.start:,} .. {tensor.end:,} of the {self.size - base:,} "
                                 f"bytes of tensors, {last[:80]} ends at {place:,}")  # fmt: skip
            place, last = tensor.end, name
        return {name: t._replace(start=base + t.start, end=base + t.end) for name, t in found.items()}


def short_texts(data_B: NDArray[np.uint8], count: int) -> tuple[list[str] | None, int]:
    """`count` strings and the bytes they take; None where one is empty, has 256 bytes or more, holds a NUL, or is no
    UTF-8, or `data_B` ends before they do: these are for the walk, which says what is wrong.

    Each of the others begins with its length in one byte and seven zeros, and no other zeros are there.
    """
    zeros = np.flatnonzero(data_B == 0)
    if count == 0 or len(zeros) < 7 * count:
        return ([], 0) if count == 0 else (None, 0)
    starts = zeros[: 7 * count : 7] - 1
    ends = starts + 8 + data_B[starts]
    runs = zeros[6 : 7 * count : 7] == starts + 7
    chained = starts[0] == 0 and runs.all() and (starts[1:] == ends[:-1]).all()
    if not chained or ends[-1] > len(data_B) or (zeros[7 * count : 7 * count + 1] < ends[-1]).any():
        return None, 0
    kept = np.ones(ends[-1], dtype=np.bool_)
    kept[starts[:, None] + np.arange(7)] = False  # of eight bytes of length the last zero stays, as a separator
    try:
        return data_B[: ends[-1]][kept].tobytes().decode("utf-8").split("\0")[1:], int(ends[-1])
    except UnicodeDecodeError:
        return None, 0

"""The head of a GGUF file: metadata and where each tensor lies, with every count and offset checked.

The `gguf` package's own reader walks arrays item by item (seconds for a vocabulary) and trusts the counts it finds, so
only its tables of types are used here. Source of the layout: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from octavo.core.errors import CheckpointError
from octavo.weights.mapped import MappedFile

# value type in the file -> struct format of one value
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
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


def read_header(file: MappedFile, *, types: dict[int, tuple[str, int, int]]) -> GgufHeader:
    """The checked head of a file.

    types   number of a tensor type -> (name, numbers per block, bytes per block): those that can be read
    Raises CheckpointError for a file that is cut off, damaged, split, or of another version, byte order or type.
    """
    return _Walk(file).header(types)


class _Walk:
    """Reads forward through the head and never past the file's end."""

    def __init__(self, file: MappedFile) -> None:
        self.path: Path = file.path
        self.data, self.size, self.place = file.map, file.size_bytes, 0

    def fault(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name}: {found}. The file is cut off or damaged: download it again.")

    def header(self, types: dict[int, tuple[str, int, int]]) -> GgufHeader:
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
        return GgufHeader(fields, self.tensors(tensors, types, alignment=self.alignment(fields)))

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
        """`count` strings. The loop that opening a file spends its time in, so it makes no calls of ours."""
        if count > (self.size - self.place) // 8:
            raise self.fault(f"an array of {count:,} strings at byte {self.place:,} of {self.size:,}")
        data, place, unpack, found = self.data, self.place, struct.Struct("<Q").unpack_from, list[str]()
        try:
            for _ in range(count):
                end = place + 8 + unpack(data, place)[0]
                if end > self.size:
                    raise self.fault(f"a string at byte {place:,} ends at {end:,} of {self.size:,}")
                found.append(data[place + 8 : end].decode("utf-8"))
                place = end
        except (struct.error, UnicodeDecodeError) as cause:
            raise self.fault(f"the string at byte {place:,} is cut off or not UTF-8") from cause
        self.place = place
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

    def tensors(self, count: int, types: dict[int, tuple[str, int, int]], *, alignment: int) -> dict[str, GgufTensor]:
        found: dict[str, GgufTensor] = {}
        for _ in range(count):
            name, axes = self.text(), self.number("I")
            if not 1 <= axes <= 4 or name in found:
                raise self.fault(f"tensor {name[:80]!r} occurs twice or has {axes} axes")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]
            kind, start = self.number("I"), self.number("Q")
            if kind not in types:
                raise CheckpointError(
                    f"{self.path.name}: {name[:80]} is stored as GGUF type {kind}, Octavo reads "
                    f"{', '.join(label for label, _, _ in types.values())}. Choose one of these files of the model."
                )
            label, block, block_bytes = types[kind]
            numbers = math.prod(shape)
            if not 0 < numbers < 1 << 60 or shape[-1] % block or start % alignment:
                raise self.fault(f"{name[:80]} has shape {shape} of {label} at byte {start:,}")
            found[name] = GgufTensor(label, shape, start, start + numbers // block * block_bytes)
        base = -(-self.place // alignment) * alignment
        place, last = 0, "the header"
        for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
            if tensor.start < place or base + tensor.end > self.size:
                raise self.fault(f"{name[:80]} lies at {tensor.start:,} .. {tensor.end:,} of the {self.size - base:,} "
                                 f"bytes of tensors, {last[:80]} ends at {place:,}")  # fmt: skip
            place, last = tensor.end, name
        return {name: t._replace(start=base + t.start, end=base + t.end) for name, t in found.items()}

"""Packed weights as one file that is mapped, not read: made once from a checkpoint, found again by its content.

Layout: arrays, each on a cache line; a table of them as JSON; 8 bytes length and 32 bytes SHA-256 of the table; MAGIC.
The file's name is a hash of what it was made from (of files of weights: when they were written, and samples), so one
that does not fit is never opened; its table is verified whole, each array by the check sums of its ends.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from msgspec import DecodeError, Struct
from msgspec import json as wire
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError
from octavo.models import read_config
from octavo.models.packed import Packed, PackedModel, Recipe, Stored, collect, pack
from octavo.models.parameters import parameter_shapes
from octavo.nn.kernels import cache_folder
from octavo.nn.packed import Kind
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.gguf_blocks import GROUPED, grouped
from octavo.weights.load import plan_load
from octavo.weights.memory import PACKED

MAGIC, VERSION = b"OCTAVO1\n", 5  # VERSION: of the kernels' layouts, and of what `_key` looks at
TAIL = 8 + 32 + 8  # length, hash, magic
LINE, EDGE = 64, 4096  # bytes
SAMPLES = 64  # blocks of each file that its name depends on, beside its size
EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")

Progress = Callable[[int, int], None]  # layers done, layers in all


class Entry(Struct, frozen=True, array_like=True):
    """An array in the file. check: CRC-32 of its first and last 4,096 bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    check: int


class Table(Struct, frozen=True):
    """What is in the file. matrices: name -> kind, inputs, rotation."""

    arrays: list[Entry]
    matrices: dict[str, tuple[Kind, int, int]]


class CheckpointWeights:
    """A checkpoint's tensors by the official names of single experts, whichever way they are stored."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.names = checkpoint, set(checkpoint.names)

    def numbers(self, name: str) -> NDArray[Any]:
        """float32, float16, or bf16 as its bits."""
        if name in self.names:
            return self.checkpoint.array(name)
        match = EXPERT.fullmatch(name)
        assert match is not None, f"{name} was not planned"
        fused = self.checkpoint.array(f"{match[1]}.{'down_proj' if match[3] == 'down' else 'gate_up_proj'}")
        one = fused[int(match[2])]
        half = len(one) // 2
        return {"gate": one[:half], "up": one[half:], "down": one}[match[3]]

    def quantised(self, name: str) -> Stored | None:
        """Blocks of a GGUF file that the kernels multiply as they are, and what `octavo quantize` wrote."""
        if name not in self.names:
            return None
        kind = self.checkpoint.dtype_name(name)
        return grouped(kind, self.checkpoint.raw(name)) if kind in GROUPED else self.checkpoint.quantised(name)


def open_packed(checkpoint: Checkpoint, *, recipe: Recipe, head: Kind | None = None,
                progress: Progress | None = None) -> PackedModel:  # fmt: skip
    """A checkpoint packed for the kernels: from the cache, else packed now and kept there.

    Where the cache cannot be written, and where the environment says OCTAVO_PACKED=memory, the weights are packed in
    memory. Raises CheckpointError or ConfigError for a checkpoint that is not whole.
    """
    config = read_config(checkpoint.config)
    if os.environ.get(PACKED) == "memory":
        plan_load(checkpoint, parameter_shapes(config))
        return collect(config, pack(config, CheckpointWeights(checkpoint), recipe=recipe, head=head))
    folder = packed_folder()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint.chat_name)[:60]
    path = folder / f"{name}-{recipe}-{_key(checkpoint, recipe, head)}.octavo"
    if (kept := _kept(path, checkpoint.config)) is not None:
        return kept
    plan_load(checkpoint, parameter_shapes(config))
    pieces = _released(checkpoint, pack(config, CheckpointWeights(checkpoint), recipe=recipe, head=head), progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_packed(path, pieces)
    except OSError:
        return collect(config, pack(config, CheckpointWeights(checkpoint), recipe=recipe, head=head))
    return read_packed(path, checkpoint.config)


def _kept(path: Path, config: dict[str, Any]) -> PackedModel | None:
    """A packed file that is there; None also for one that is damaged or another user's: it is made anew."""
    try:
        return read_packed(path, config)
    except CheckpointError:
        return None


def packed_folder() -> Path:
    """Where packed files are kept."""
    return cache_folder() / "packed"


def packed_bytes() -> int:
    """Of all packed files, and of what was left behind by processes that were killed while they packed."""
    return sum(map(_bytes, packed_folder().glob("*")))


def _bytes(path: Path) -> int:
    """0 for one that another process has just named anew or deleted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def remove_packed() -> int:
    """Delete them all; returns their bytes. Who has one open keeps it, and who opens a model next packs it again.

    Raises CheckpointError where the system does not let them go.
    """
    try:
        freed = packed_bytes()
        for path in packed_folder().glob("*"):
            path.unlink(missing_ok=True)
    except OSError as cause:
        raise CheckpointError(f"{packed_folder()} cannot be emptied ({cause}): delete it by hand.") from cause
    return freed


def write_packed(path: Path, pieces: Iterable[Packed]) -> None:
    """Write a packed model; it appears whole or not at all. Raises OSError."""
    entries, matrices = list[Entry](), dict[str, tuple[Kind, int, int]]()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as out:
        try:
            for piece in pieces:
                if piece.matrix is not None:
                    matrices[piece.name] = piece.matrix
                entries += [_append(out.file, name, array) for name, array in piece.arrays.items()]
            table = wire.encode(Table(arrays=entries, matrices=matrices))
            out.write(table + len(table).to_bytes(8, "little") + hashlib.sha256(table).digest() + MAGIC)
            out.flush()
            os.replace(out.name, path)
        except BaseException:
            os.unlink(out.name)
            raise


def read_packed(path: Path, config: dict[str, Any]) -> PackedModel:
    """Map a packed file. Raises CheckpointError where it is damaged."""
    broken = CheckpointError(f"{path} is damaged: remove it, and it is made again.")
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as cause:
        raise broken from cause
    if len(data) < TAIL or bytes(data[-len(MAGIC) :]) != MAGIC:
        raise broken
    size = int.from_bytes(data[-TAIL : -TAIL + 8], "little")
    text = bytes(data[-TAIL - size : -TAIL]) if size <= len(data) - TAIL else b""
    if hashlib.sha256(text).digest() != bytes(data[-TAIL + 8 : -len(MAGIC)]):
        raise broken
    try:
        table = wire.decode(text, type=Table)
    except DecodeError as cause:
        raise broken from cause
    arrays = {entry.name: np.ndarray(entry.shape, entry.dtype, data, entry.start) for entry in table.arrays}
    if any(_edges(arrays[entry.name]) != entry.check for entry in table.arrays):
        raise broken
    return PackedModel(
        config=read_config(config), arrays=arrays, kinds={name: m[0] for name, m in table.matrices.items()},
        inputs={name: m[1] for name, m in table.matrices.items()},
        rotations={name: m[2] for name, m in table.matrices.items()},
    )  # fmt: skip


def _append(out: IO[bytes], name: str, array: NDArray[Any]) -> Entry:
    out.write(b"\0" * (-out.tell() % LINE))
    start, whole = out.tell(), np.ascontiguousarray(array)
    out.write(whole.data.cast("B") if whole.size else b"")
    return Entry(name, whole.dtype.str, whole.shape, start, _edges(whole))


def _edges(array: NDArray[Any]) -> int:
    flat = array.reshape(-1).view(np.uint8)
    return zlib.crc32(flat[-EDGE:].tobytes(), zlib.crc32(flat[:EDGE].tobytes()))


def _key(checkpoint: Checkpoint, recipe: Recipe, head: Kind | None) -> str:
    content = hashlib.sha256(json.dumps([VERSION, recipe, head, checkpoint.config], sort_keys=True).encode())
    for path in checkpoint.paths:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            content.update(f"{size} {os.fstat(file.fileno()).st_mtime_ns} ".encode())
            for i in range(SAMPLES):
                file.seek(max(0, size - EDGE) * i // (SAMPLES - 1))
                content.update(file.read(EDGE))
    return content.hexdigest()[:20]


def _released(checkpoint: Checkpoint, pieces: Iterator[Packed], progress: Progress | None) -> Iterator[Packed]:
    """Give the memory of a layer's tensors back once the layer is packed, and tell how far it is."""
    layers, layer = int(checkpoint.config["num_hidden_layers"]), 0
    for piece in pieces:
        now = int(piece.name.split(".")[1]) if piece.name.startswith("layers.") else layers
        if now != layer:
            for name in checkpoint.names:
                if f".layers.{layer}." in name:
                    checkpoint.release(name)
            layer = now
            if progress is not None:
                progress(layer, layers)
        yield piece

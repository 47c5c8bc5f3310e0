"""An Octavo quantised checkpoint: its tensors as dataclasses, as plain weights, and written.

config.json has quantization_config {"quant_method": "octavo", "format": ...}. model.safetensors holds for each
quantised weight NAME.weight of N rows and K inputs (the embedding is one; names are official ones):

    NAME.q       w8: int8 (N, K). w4: uint8 (N, K/2); byte i holds input 2i in its low and 2i + 1 in its high four bits,
                 each in two's complement
    NAME.group   w4 only: uint8 (N, G), G = K / 32 rounded up, 1 .. 15
    NAME.scale   float32 (N,)

    model.embed_tokens.columns   float32 (D,), where the model had one table for both ends: the embedding is lm_head,
                                 times this in each column

All else (norms, routers, biases) is as in the official checkpoint. One file may hold both kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError
from octavo.nn.quant import GROUP, LOW4, MOST_GROUP, Int4Weight, Int8Weight, Weight
from octavo.weights.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    import torch

    from octavo.weights.checkpoint import Checkpoint

CONFIG, METHOD = "quantization_config", "octavo"
KINDS = {"I8": np.int8, "U8": np.uint8, "F32": np.float32}
WEIGHT = ".weight"
EMBEDDING, HEAD, COLUMNS = "model.embed_tokens.weight", "lm_head.weight", "model.embed_tokens.columns"


class QuantisedFile:
    """A safetensors file in which `read` gives quantised weights as float32, and `weight` as they are."""

    def __init__(self, file: SafetensorsFile) -> None:
        """Raises CheckpointError where a weight's parts do not belong together."""
        self.file, there = file, file.tensors
        self.quantised = {name.removesuffix(".q") + WEIGHT for name in there if name.endswith(".q")}
        parts = {w.removesuffix(WEIGHT) + leaf for w in self.quantised for leaf in (".q", ".group", ".scale")}
        self.shared = COLUMNS in there
        if self.shared:
            parts.add(COLUMNS)
            self.quantised.add(EMBEDDING)
        lost = [name for name in there if name not in parts and name.endswith((".group", ".scale"))]
        if lost:
            raise self._damaged(lost[0], "belongs to no weight")
        self.names = (*(name for name in there if name not in parts), *sorted(self.quantised))
        if len(set(self.names)) < len(self.names):
            raise self._damaged("a weight", "is there both plain and quantised")
        for name in self.quantised - ({EMBEDDING} if self.shared else set()):
            self._check(name)
        if self.shared and (HEAD not in self.quantised or there[COLUMNS][:2] != ("F32", self.shape(HEAD)[1:])):
            raise self._damaged(COLUMNS, "does not fit lm_head")

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.file.size_bytes

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor: of a quantised one as the model has it."""
        if name not in self.quantised:
            return self.file.shape(name)
        q = self.file.tensors[part_of(self._table(name), "q")]
        return q.shape if q.dtype == "I8" else (q.shape[0], 2 * q.shape[1])

    def dtype(self, name: str) -> torch.dtype:
        """That `read` gives: float32 for a quantised weight."""
        import torch

        return torch.float32 if name in self.quantised else self.file.dtype(name)

    def read(self, name: str) -> torch.Tensor:
        """One tensor: a new one where it is quantised. Raises CheckpointError for numbers that cannot be."""
        import torch

        if name not in self.quantised:
            return self.file.read(name)
        dense = self.weight(self._table(name)).dense()
        return torch.from_numpy(dense * self.columns() if self._table(name) != name else dense)

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk."""
        self.file.prefetch(part_of(self._table(name), "q") if name in self.quantised else name)

    def release(self, name: str) -> None:
        """Give the memory behind a read tensor back."""
        self.file.release(part_of(self._table(name), "q") if name in self.quantised else name)

    def weight(self, name: str) -> Weight:
        """A quantised weight. Raises CheckpointError for numbers that cannot be."""
        q, scale_N = self._array(part_of(name, "q")), self._array(part_of(name, "scale"))
        if not (np.isfinite(scale_N).all() and (scale_N >= 0).all()):
            raise self._damaged(name, "has a scale that is negative or not finite")
        if q.dtype == np.int8:
            if (q == -128).any():
                raise self._damaged(name, "holds -128, numbers go from -127 to 127")
            return Int8Weight(q, scale_N)
        group_NG = self._array(part_of(name, "group"))
        if not ((group_NG >= 1) & (group_NG <= MOST_GROUP)).all():
            raise self._damaged(name, f"has a group scale outside 1 to {MOST_GROUP}")
        return Int4Weight(unpacked(q), group_NG, scale_N)

    def columns(self) -> NDArray[np.float32]:
        """What the columns of lm_head are multiplied with to give the embedding (D,), where they share a table."""
        columns_D = self._array(COLUMNS)
        if not np.isfinite(columns_D).all():
            raise self._damaged(COLUMNS, "holds a number that is not finite")
        return columns_D

    def _table(self, name: str) -> str:
        """Where a weight's numbers lie."""
        return HEAD if self.shared and name == EMBEDDING else name

    def _array(self, name: str) -> NDArray[Any]:
        stored = self.file.tensors[name]
        kind = np.dtype(KINDS[stored.dtype])
        count = (stored.end - stored.start) // kind.itemsize
        return np.frombuffer(self.file.file.map, kind, count, stored.start).reshape(stored.shape)

    def _check(self, name: str) -> None:
        """Whether a weight has all its parts, in the kinds and shapes that fit each other."""
        there = self.file.tensors
        q, scale, group = (there.get(part_of(name, leaf)) for leaf in ("q", "scale", "group"))
        assert q is not None
        if len(q.shape) != 2 or 0 in q.shape or q.dtype not in ("I8", "U8"):
            raise self._damaged(name, f"is {q.dtype} {list(q.shape)}, two axes of I8 or U8 were needed")
        rows, groups = q.shape[0], -(-2 * q.shape[1] // GROUP)
        if scale is None or (scale.dtype, scale.shape) != ("F32", (rows,)):
            raise self._damaged(name, f"has no scale of F32 for each of its {rows:,} rows")
        if q.dtype == "U8" and (group is None or (group.dtype, group.shape) != ("U8", (rows, groups))):
            raise self._damaged(name, f"has no group scales U8 [{rows}, {groups}]")
        if q.dtype == "I8" and group is not None:
            raise self._damaged(name, "has 8 bits and group scales, which only 4 bits have")

    def _damaged(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file.file.path.name}: {name[:80]} {what}. The file is damaged or no checkpoint "
                               f"by `octavo quantize`: make it again.")  # fmt: skip


def read_quantised(checkpoint: Checkpoint) -> Iterator[tuple[str, Weight]]:
    """All quantised weights with their official names, one at a time. w8 are views of the file.

    Where embedding and head share a table, only the head comes; `QuantisedFile.columns` has what the embedding needs.
    Raises CheckpointError for a checkpoint that `octavo quantize` did not make, or for damaged numbers.
    """
    for file in checkpoint.files:
        if not isinstance(file, QuantisedFile):
            raise CheckpointError(f"{checkpoint.path} is no quantised checkpoint: make one with `octavo quantize`.")
        for name in sorted(file.quantised - ({EMBEDDING} if file.shared else set())):
            yield name, file.weight(name)


def packed4(q_NK: NDArray[np.int8]) -> NDArray[np.uint8]:
    """-8 .. 7 (N, K), two per byte (N, K/2): the first in the low four bits."""
    nibbles_NK = q_NK.view(np.uint8) & np.uint8(15)
    return nibbles_NK[:, ::2] | nibbles_NK[:, 1::2] << np.uint8(4)


def unpacked(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """What `packed4` packed."""
    nibbles = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1).view(np.int8)
    return (nibbles ^ -LOW4) + np.int8(LOW4)  # 8 .. 15 stand for -8 .. -1


def part_of(name: str, leaf: str) -> str:
    """What a file calls a part of the weight NAME.weight."""
    return f"{name.removesuffix(WEIGHT)}.{leaf}"

"""An Octavo quantised checkpoint: its tensors as dataclasses, and as plain weights.

config.json has quantization_config {"quant_method": "octavo", "rotation": "hadamard-hartley", "format": ...}.
model.safetensors holds for each quantised weight NAME.weight of N rows and K inputs (names are official ones; the
embedding is one, and where the head has the same table there is no other):

    NAME.q       w8: int8 (N, K). w4: uint8 (N, K/2); byte i holds input 2i in its low and 2i + 1 in its high four bits,
                 each in two's complement
    NAME.group   w4 only: uint8 (N, G), G = K / 32 rounded up, 1 .. 15
    NAME.scale   float32 (N,)

The numbers stand for `nn.packed.rotated` of the weight with blocks of `rotation_of(K)`, as the kernels multiply them:
inputs are rotated before they are rounded, rows of the embedding when they have been looked up.

All else (norms, routers, biases) is as in the official checkpoint. One file may hold both kinds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError, ConfigError
from octavo.nn.packed import rotated, rotation_of
from octavo.nn.quant import GROUP, LOW4, MOST_GROUP, Floats, Int4Weight, Int8Weight, Weight
from octavo.weights.mapped import bytes_of
from octavo.weights.safetensors_file import SafetensorsFile

CONFIG, METHOD, ROTATION = "quantization_config", "octavo", "hadamard-hartley"
FORMATS = {"I8": "w8", "U8": "w4"}  # how the integers are stored -> what they are
WEIGHT = ".weight"


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json less how Octavo's own files are quantised, since they give plain weights; of any other file as it is.

    Raises ConfigError for a rotation that this Octavo does not know.
    """
    how = config.get(CONFIG)
    if not isinstance(how, dict) or how.get("quant_method") != METHOD:
        return config
    if how.get("rotation") != ROTATION:
        raise ConfigError(f"config.json: {CONFIG} has the rotation {how.get('rotation')!r:.80}, this Octavo knows "
                          f"{ROTATION}: update Octavo, or quantise the model again.")  # fmt: skip
    return {name: value for name, value in config.items() if name != CONFIG}


class QuantisedFile:
    """A safetensors file in which `array` gives quantised weights as float32, and `weight` as they are."""

    def __init__(self, file: SafetensorsFile) -> None:
        """Raises CheckpointError where a weight's parts do not belong together."""
        self.file, there = file, file.tensors
        self.quantised = {name.removesuffix(".q") + WEIGHT for name in there if name.endswith(".q")}
        parts = {part_of(name, leaf) for name in self.quantised for leaf in ("q", "group", "scale")}
        lost = [name for name in there if name not in parts and name.endswith((".group", ".scale"))]
        if lost:
            raise self._damaged(lost[0], "belongs to no weight")
        self.names = (*(name for name in there if name not in parts), *sorted(self.quantised))
        if len(set(self.names)) < len(self.names):
            raise self._damaged("a weight", "is there both plain and quantised")
        for name in self.quantised:
            self._check(name)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.file.size_bytes

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor: of a quantised one as the model has it."""
        rows, *inputs = self.file.shape(self._home(name))
        return (rows, 2 * inputs[0]) if self.dtype_name(name) == "w4" else (rows, *inputs)

    def dtype_name(self, name: str) -> str:
        """Of one tensor: "w8" or "w4" of a quantised one, else as the header has it."""
        stored = self.file.dtype_name(self._home(name))
        return FORMATS[stored] if name in self.quantised else stored

    def array(self, name: str) -> NDArray[Any]:
        """One tensor: a new one where it is quantised. Raises CheckpointError for numbers that cannot be."""
        return plain(self.weight(name)) if name in self.quantised else self.file.array(name)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of its rows: of a quantised one its integers."""
        return bytes_of(self.file.array(self._home(name)))

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk."""
        self.file.prefetch(self._home(name))

    def release(self, name: str) -> None:
        """Give the memory behind a read tensor back."""
        self.file.release(self._home(name))

    def weight(self, name: str) -> Weight:
        """A quantised weight, rotated; w8 are views of the file. Raises CheckpointError for numbers that cannot be."""
        q, scale_N = (self.file.array(part_of(name, leaf)) for leaf in ("q", "scale"))
        if not (np.isfinite(scale_N).all() and (scale_N >= 0).all()):
            raise self._damaged(name, "has a scale that is negative or not finite")
        if q.dtype == np.int8:
            if (q == -128).any():
                raise self._damaged(name, "holds -128, numbers go from -127 to 127")
            return Int8Weight(q, scale_N)
        group_NG = self.file.array(part_of(name, "group"))
        if not ((group_NG >= 1) & (group_NG <= MOST_GROUP)).all():
            raise self._damaged(name, f"has a group scale outside 1 to {MOST_GROUP}")
        return Int4Weight(unpacked(q), group_NG, scale_N)

    def _home(self, name: str) -> str:
        """What the file calls a tensor: of a quantised one its integers."""
        return part_of(name, "q") if name in self.quantised else name

    def _check(self, name: str) -> None:
        """Whether a weight has all its parts, in the kinds and shapes that fit each other."""
        there = self.file.tensors
        q, scale, group = (there.get(part_of(name, leaf)) for leaf in ("q", "scale", "group"))
        assert q is not None
        if len(q.shape) != 2 or 0 in q.shape or q.dtype not in FORMATS:
            raise self._damaged(name, f"is {q.dtype} {list(q.shape)}, two axes of I8 or U8 were needed")
        rows, groups = q.shape[0], -(-2 * q.shape[1] // GROUP)
        if scale is None or (scale.dtype, scale.shape) != ("F32", (rows,)):
            raise self._damaged(name, f"has no scale of F32 for each of its {rows:,} rows")
        if q.dtype == "U8" and (group is None or (group.dtype, group.shape) != ("U8", (rows, groups))):
            raise self._damaged(name, f"has no group scales U8 [{rows}, {groups}]")
        if q.dtype == "I8" and group is not None:
            raise self._damaged(name, "has 8 bits and group scales, which only 4 bits have")

    def _damaged(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name}: {name[:80]} {what}. The file is damaged or no checkpoint "
                               f"by `octavo quantize`: make it again.")  # fmt: skip


def plain(weight: Weight) -> Floats:
    """The weight itself, (N, K): rotated back."""
    dense_NK = weight.dense()
    return rotated(dense_NK, rotation_of(dense_NK.shape[1]))


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

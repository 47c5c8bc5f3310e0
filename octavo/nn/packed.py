"""Weights as the CPU kernels read them.   Axes: N outputs, K inputs, G groups of 32 inputs.

The layouts are described in `kernels/linear.h`: outputs stand in pairs of panels of 16, inputs are padded to 64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["bf16", "w8", "w4", "g8", "g4", "g4m"]
KINDS: dict[Kind, int] = {"bf16": 0, "w8": 1, "w4": 2, "g8": 3, "g4": 4, "g4m": 5}  # as the kernels number them
MULTIPLIES: dict[Kind, Kind] = {kind: "bf16" if kind == "bf16" else "w8" for kind in KINDS}  # the units that it uses
GROUP = 32  # inputs that share a scale
PAIR, LANES, PAD = 32, 16, 64
MOST_BLOCKS = 32  # that a rotation goes across


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedMatrix:
    """One linear layer. outputs: rounded up to 32; inputs: as the model has them.

    rotation size of the Hadamard blocks that the inputs are multiplied with, as the weights were; 0: none
    data     uint8, layout of its kind;   groups   factors of w4 (uint8), scales and minima of g8, g4, g4m (fp16)
    scale    (N,) fp32 of w8 and w4, empty otherwise;   bias   (N,) fp32, empty: none
    """

    kind: Kind
    outputs: int
    inputs: int
    rotation: int = 0
    data: NDArray[np.uint8]
    groups: NDArray[Any]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


def wide(inputs: int) -> int:
    """Inputs with their padding."""
    return -(-inputs // PAD) * PAD


def rotation_of(inputs: int) -> int:
    """Size of the Hadamard blocks for so many inputs: the largest power of two in it; 0 where that is not worth it."""
    block = inputs & -inputs
    return block if block >= LANES and inputs // block <= MOST_BLOCKS else 0


def rotated(weight_NK: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Weights for inputs that the kernels rotate; 0: as they are.

    Within each block of inputs an orthonormal Walsh-Hadamard transform, across the blocks an orthonormal Hartley
    transform. Each is its own inverse. Done by rows that stay in the cache.
    """
    if not block:
        return weight_NK
    inputs = weight_NK.shape[1]
    angle = 2 * np.pi * np.outer(np.arange(inputs // block), np.arange(inputs // block)) / (inputs // block)
    across = ((np.cos(angle) + np.sin(angle)) * inputs**-0.5).astype(np.float32)
    out_NK = np.empty_like(weight_NK)
    step = max(1, (1 << 16) // inputs)
    for first in range(0, len(weight_NK), step):
        part = weight_NK[first : first + step].reshape(-1, block)
        apart = 1
        while apart < block:
            pairs = part.reshape(len(part), -1, 2, apart)
            part = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
            apart *= 2
        out_NK[first : first + step] = (across @ part.reshape(-1, inputs // block, block)).reshape(-1, inputs)
    return out_NK


def interleaved(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Two weights of the same shape as one: a panel of 16 outputs of the first, then one of the second, and so on."""
    first, second = (_rows_padded(part) for part in parts)
    split = np.stack((first.reshape(-1, LANES, first.shape[1]), second.reshape(-1, LANES, first.shape[1])), axis=1)
    return split.reshape(-1, first.shape[1])


def _rows_padded(part: NDArray[Any]) -> NDArray[Any]:
    short = -len(part) % LANES
    return np.concatenate((part, np.zeros((short, *part.shape[1:]), dtype=part.dtype))) if short else part


def pack_bf16(bits_NK: NDArray[np.uint16], *, bias_N: NDArray[np.float32] | None = None) -> PackedMatrix:
    """bits_NK: bf16 numbers as their bits."""
    outputs, inputs = bits_NK.shape
    whole_NK = _padded(bits_NK, fill=0)
    data = _panels(whole_NK, together=2).view(np.uint8)
    return _matrix("bf16", outputs, inputs, data=data, bias_N=bias_N)


def pack_w8(q_NK: NDArray[np.int8], scale_N: NDArray[np.float32], *,
            bias_N: NDArray[np.float32] | None = None, rotation: int = 0) -> PackedMatrix:  # fmt: skip
    """Logical weight = q * scale."""
    outputs, inputs = q_NK.shape
    shifted_NK = (_padded(q_NK, fill=0).view(np.uint8)) ^ np.uint8(128)
    data = _panels(shifted_NK, together=4)
    return _matrix("w8", outputs, inputs, data=data, scale_N=scale_N, bias_N=bias_N, rotation=rotation)


def pack_w4(q_NK: NDArray[np.int8], group_NG: NDArray[np.uint8], scale_N: NDArray[np.float32], *,
            bias_N: NDArray[np.float32] | None = None, rotation: int = 0) -> PackedMatrix:  # fmt: skip
    """Logical weight = q * group * scale; q in -8..7, group in 0..15."""
    outputs, inputs = q_NK.shape
    both = _nibbles((_padded(q_NK, fill=0) + np.int8(8)).view(np.uint8))
    rows, deep = len(both), 2 * both.shape[1]
    factors_NG = np.zeros((rows, deep // 32), dtype=np.uint8)
    factors_NG[:outputs, : group_NG.shape[1]] = group_NG
    pairs_NG = factors_NG[:, 0::2] | (factors_NG[:, 1::2] << 4)
    return _matrix(
        "w4", outputs, inputs, data=_panels(both, together=4), groups=_panels(pairs_NG, together=1),
        scale_N=scale_N, bias_N=bias_N, rotation=rotation,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """A weight as GGUF files hold it: q * scale (+ minimum), scale and minimum for 32 inputs.

    q_NK         int8 (8 bits: -127 .. 127; 4 bits: -8 .. 7), or uint8 (0 .. 15) with minima
    scale_NG     fp16;   minimum_NG   fp16; None: none
    """

    kind: Kind
    q_NK: NDArray[Any]
    scale_NG: NDArray[np.float16]
    minimum_NG: NDArray[np.float16] | None = None

    def dense(self) -> NDArray[np.float32]:
        """The weight itself, (N, K)."""
        whole_NK = self.q_NK * np.repeat(self.scale_NG.astype(np.float32), GROUP, axis=1)
        if self.minimum_NG is not None:
            whole_NK += np.repeat(self.minimum_NG.astype(np.float32), GROUP, axis=1)
        return whole_NK


def pack_grouped(weight: GroupedWeight, *, bias_N: NDArray[np.float32] | None = None) -> PackedMatrix:
    """Nothing is lost. Inputs: a multiple of 32."""
    outputs, inputs = weight.q_NK.shape
    if weight.kind == "g8":
        data = _panels(_padded(weight.q_NK, fill=0).view(np.uint8) ^ np.uint8(128), together=4)
    else:
        signed = weight.minimum_NG is None
        values_NK = _padded(weight.q_NK, fill=0)
        data = _panels(_nibbles((values_NK + np.int8(8)).view(np.uint8) if signed else values_NK), together=4)
    tables = [weight.scale_NG] if weight.minimum_NG is None else [weight.scale_NG, weight.minimum_NG]
    rows, groups = -(-outputs // PAIR) * PAIR, wide(inputs) // GROUP
    whole = np.zeros((rows, groups, len(tables)), dtype=np.float16)
    for i, table_NG in enumerate(tables):
        whole[:outputs, : table_NG.shape[1], i] = table_NG
    split = whole.reshape(rows // PAIR, 2, LANES, groups, len(tables)).transpose(0, 3, 4, 1, 2)
    groups_flat = np.ascontiguousarray(split).reshape(-1)
    return _matrix(weight.kind, outputs, inputs, data=data, groups=groups_flat, bias_N=bias_N)


def _nibbles(values_NK: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers of 4 bits in a byte: inputs 8i .. 8i+3 below inputs 8i+4 .. 8i+7."""
    rows, deep = values_NK.shape
    halves = values_NK.reshape(rows, deep // 8, 2, 4)
    both: NDArray[np.uint8] = halves[:, :, 0] | (halves[:, :, 1] << np.uint8(4))
    return both.reshape(rows, deep // 2)


def _matrix(kind: Kind, outputs: int, inputs: int, *, data: NDArray[np.uint8],
            groups: NDArray[Any] | None = None, scale_N: NDArray[np.float32] | None = None,
            bias_N: NDArray[np.float32] | None = None, rotation: int = 0) -> PackedMatrix:  # fmt: skip
    rows = -(-outputs // PAIR) * PAIR
    empty = np.empty(0, dtype=np.float32)
    return PackedMatrix(
        kind=kind, outputs=rows, inputs=inputs, rotation=rotation, data=data,
        groups=np.empty(0, dtype=np.uint8) if groups is None else groups,
        scale=empty if scale_N is None else _filled(scale_N, rows),
        bias=empty if bias_N is None else _filled(bias_N, rows),
    )  # fmt: skip


def _filled(values_N: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    whole = np.zeros(size, dtype=np.float32)
    whole[: len(values_N)] = values_N
    return whole


def _padded(values_NK: NDArray[Any], *, fill: int) -> NDArray[Any]:
    outputs, inputs = values_NK.shape
    rows, deep = -(-outputs // PAIR) * PAIR, wide(inputs)
    if (rows, deep) == values_NK.shape:
        return values_NK
    whole = np.full((rows, deep), fill, dtype=values_NK.dtype)
    whole[:outputs, :inputs] = values_NK
    return whole


def _panels(values_NK: NDArray[Any], *, together: int) -> NDArray[Any]:
    """(N, K) -> flat [N/32][K/together][2][16][together]."""
    rows, deep = values_NK.shape
    split = values_NK.reshape(rows // PAIR, 2, LANES, deep // together, together)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2, 4)).reshape(-1)

"""How GGUF stores numbers: plainly, or in blocks that share their scales."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.nn.packed import GroupedWeight, Kind

CHUNK_NUMBERS = 1 << 18  # dequantised at once: what NumPy makes on the way stays in the cache


class Block(NamedTuple):
    """A type of the file: its number there, how many weights a block holds, and in how many bytes."""

    number: int
    weights: int
    size_bytes: int


# The types that are read. Source: the tables of the `gguf` package, which the tests compare with these.
BLOCKS = {
    "F32": Block(0, 1, 4), "F16": Block(1, 1, 2), "BF16": Block(30, 1, 2), "Q8_0": Block(8, 32, 34),
    "Q4_0": Block(2, 32, 18), "Q4_1": Block(3, 32, 20), "Q5_0": Block(6, 32, 22), "Q5_1": Block(7, 32, 24),
    "Q4_K": Block(12, 256, 144), "Q5_K": Block(13, 256, 176), "Q6_K": Block(14, 256, 210),
}  # fmt: skip


def dequantised(raw: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """The numbers that blocks of a kind stand for: (rows, bytes per row) -> (rows, channels)."""
    import gguf
    import gguf.quants

    block, quantisation = BLOCKS[kind], gguf.GGMLQuantizationType[kind]
    blocks = raw.reshape(-1, block.size_bytes)
    out = np.empty((len(blocks), block.weights), np.float32)
    step = math.ceil(CHUNK_NUMBERS / block.weights)
    with np.errstate(all="ignore"):  # a scale may be infinite in a damaged file: the numbers say so themselves
        for first in range(0, len(out), step):
            out[first : first + step] = gguf.quants.dequantize(blocks[first : first + step], quantisation)
    return out.reshape(len(raw), -1)


GROUPED: dict[str, Kind] = {"Q8_0": "g8", "Q4_0": "g4", "Q4_1": "g4m"}  # blocks that the kernels multiply as they are


def grouped(kind: str, raw: NDArray[np.uint8]) -> GroupedWeight:
    """Blocks of Q8_0, Q4_0 or Q4_1 as small integers with their scales: exactly what they stand for."""
    block = BLOCKS[kind]
    blocks = raw.reshape(len(raw), -1, block.size_bytes)
    halves = blocks[..., : 4 if kind == "Q4_1" else 2].copy().view(np.float16)
    if kind == "Q8_0":
        return GroupedWeight(GROUPED[kind], blocks[..., 2:].reshape(len(raw), -1).view(np.int8), halves[..., 0])
    nibbles = blocks[..., -16:]
    both = np.concatenate((nibbles & 15, nibbles >> 4), axis=-1).reshape(len(raw), -1)
    if kind == "Q4_1":
        return GroupedWeight(GROUPED[kind], both, halves[..., 0], halves[..., 1])
    return GroupedWeight(GROUPED[kind], both.view(np.int8) - np.int8(8), halves[..., 0])

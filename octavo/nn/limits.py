"""What this machine allows: reading of memory, multiplying of matrices.   Axes: T rows, N outputs, D inputs.

A model that answers one request reads all its weights for each token, so memory bounds decoding; a long prompt is
bound by the multiplications.
"""

import time
from collections.abc import Callable

import torch

from octavo.nn.linear import BLOCK_ROWS, Kind, pack

READ_BYTES = 256 << 20  # of weights that one product reads: more than any cache holds
WIDTH, ROWS = 2048, 512
TRIES = 5


def measure_bandwidth() -> float:
    """Bytes read per second by all of torch's threads: one row against a matrix that no cache holds, best of several.

    Two ways of reading are tried, a product in fp32 and a sum; the faster one counts. Takes a second and READ_BYTES.
    """
    weight_ND = torch.ones(READ_BYTES // 4 // WIDTH, WIDTH)
    x_D = torch.ones(WIDTH)
    ways: list[Callable[[], object]] = [lambda: weight_ND @ x_D, lambda: weight_ND.sum()]
    with torch.inference_mode():
        return READ_BYTES / min(_best_s(way) for way in ways)


def measure_matrix_rate(kind: Kind) -> float:
    """Operations per second, a multiplication and its addition being two, of a layer of this kind on 512 rows."""
    weight_ND = torch.full((min(BLOCK_ROWS, 2 * WIDTH), WIDTH), 0.01)
    with torch.inference_mode():
        layer = pack(weight_ND, None, kind=kind)
        x_TD = torch.full((ROWS, WIDTH), 0.01, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
        return 2 * ROWS * weight_ND.numel() / _best_s(lambda: layer(x_TD))


def _best_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs; the first, which touches new memory, does not count."""
    work()
    took_s = list[float]()
    for _ in range(TRIES):
        start_s = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - start_s)
    return min(took_s)

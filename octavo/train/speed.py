"""What a step costs in arithmetic, and what of it this machine could do: MFU, the share of its floating point that a
run uses. Source: PaLM, arXiv:2204.02311, appendix B, with attention counted causal."""

import time
from collections.abc import Iterable

import torch

from octavo.models.config import DecoderConfig
from octavo.models.cost import cost
from octavo.nn.context import Length, length_parts, length_tokens

# Dense bf16 of one card, by a part of its name, as the makers state it. Anything else is measured.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
WIDTH, TRIES = 768, 4  # of the product that is measured


def step_flops(config: DecoderConfig, lengths: Iterable[Length]) -> float:
    """Floating-point operations of learning documents of these lengths, forward and backward; nothing recomputed.

    6 for each weight a token is multiplied with, the head's included, and 6 * layers * heads * width for each pair of
    a token and one before it: two products forward, four backward, of a multiplication and an addition, halved.
    """
    each = cost(config)
    pair = 6 * config.layers * config.heads.heads * config.heads.head_width

    def pairs(length: Length) -> int:  # twice their number
        trunk, *branches = length_parts(length)
        return trunk**2 + sum((trunk + branch) ** 2 - trunk**2 for branch in branches)

    return float(sum(6 * (each.linears + each.head) * length_tokens(n) + pair * pairs(n) for n in lengths))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Per second: of a known card its maker's figure for bf16, else what a product of large matrices reaches here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAKS.items():
            if part in name:
                return peak
    a, best = torch.ones(WIDTH, WIDTH, dtype=dtype, device=device), float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return 2 * WIDTH**3 / best

"""Rotary positions.   Axes: T tokens, K head width, F = K/2 frequencies.   Source: RoFormer, arXiv:2104.09864."""

from functools import lru_cache

import torch
from torch import Tensor

from octavo.nn.rope import Rope


def rotation(rope: Rope, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin (T, K), fp32, for `rotate`: each frequency twice, its sine negative in the first half."""
    frequency_F, attention = _frequencies(rope, positions_T.device)
    angle_TF = positions_T[:, None].float() * frequency_F
    cos_TF, sin_TF = angle_TF.cos() * attention, angle_TF.sin() * attention
    return torch.cat((cos_TF, cos_TF), dim=-1), torch.cat((-sin_TF, sin_TF), dim=-1)


@lru_cache(maxsize=16)
def _frequencies(rope: Rope, device: torch.device) -> tuple[Tensor, float]:
    """Of a rope on a device, sent there once."""
    frequency_F, attention = rope.frequencies()
    return torch.from_numpy(frequency_F).to(device), attention


def rotate(x_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """x with each pair (i, i + K/2) of a head turned by its angle. cos, sin in x's dtype. Works for G heads too."""
    return x_THK * cos_TK[:, None] + x_THK.roll(x_THK.shape[-1] // 2, -1) * sin_TK[:, None]

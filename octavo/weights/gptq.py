"""GPTQ: inputs are rounded one after the other, and those that follow make up for the error as well as they can.

Axes: N outputs, K inputs, B inputs of a block, E inputs of a group.   Source: arXiv:2210.17323.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.nn.quant import (
    GROUP,
    LOW4,
    MOST_GROUP,
    TOP,
    TOP4,
    Int4Weight,
    Int8Weight,
    quantise_w4,
    quantise_w8,
)  # fmt: skip

BLOCK = 128  # inputs whose errors are gathered before the weight's remainder is corrected: whole groups
DAMP = 0.01  # of the mean of the Hessian's diagonal, added to the diagonal


def gptq_w8(weight_NK: Tensor, hessian_KK: Tensor) -> Int8Weight:
    """w8 with the channel scales of `quantise_w8`.   hessian_KK: the sum of x x^T over calibration tokens."""
    importance_K = hessian_KK.diagonal().numpy()
    scale_N = torch.from_numpy(quantise_w8(weight_NK.numpy(), importance_K=importance_K).scale_N)
    rounded = _Feedback(weight_NK, scale_N, hessian_KK)
    rounded.round(low=-TOP, top=TOP)
    return Int8Weight(rounded.q_NK.to(torch.int8).numpy(), scale_N.numpy())


def gptq_w4(weight_NK: Tensor, hessian_KK: Tensor) -> Int4Weight:
    """w4 with the channel scales of `quantise_w4`; a group's scale is chosen when its first input is reached."""
    importance_K = hessian_KK.diagonal().numpy()
    scale_N = torch.from_numpy(quantise_w4(weight_NK.numpy(), importance_K=importance_K).scale_N)
    rounded = _Feedback(weight_NK, scale_N, hessian_KK)
    rounded.round(low=LOW4, top=TOP4, most_group=MOST_GROUP)
    group_NG = torch.stack(rounded.groups, dim=1).to(torch.uint8)
    return Int4Weight(rounded.q_NK.to(torch.int8).numpy(), group_NG.numpy(), scale_N.numpy())


class _Feedback:
    """A weight on its way. left_NK: what is still to be rounded, corrected so far, in units of the channel's scale."""

    def __init__(self, weight_NK: Tensor, scale_N: Tensor, hessian_KK: Tensor) -> None:
        self.left_NK = weight_NK / torch.where(scale_N > 0, scale_N, torch.inf)[:, None]
        self.q_NK = torch.empty_like(self.left_NK)
        self.upper_KK = _factor(hessian_KK)
        self.groups: list[Tensor] = []  # the scale (N,) of each group

    def round(self, *, low: int, top: int, most_group: int = 1) -> None:
        """Fill q and groups. Group scales are whole numbers from 1 to most_group."""
        left_NK, upper_KK, inputs = self.left_NK, self.upper_KK, self.left_NK.shape[1]
        importance_K = upper_KK.diagonal().square().reciprocal()
        for first in range(0, inputs, BLOCK):
            last = min(first + BLOCK, inputs)
            error_NB = torch.empty(len(left_NK), last - first)
            for k in range(first, last):
                if k % GROUP == 0:
                    group = slice(k, min(k + GROUP, inputs))
                    self.groups.append(_best_group(left_NK[:, group], importance_K[group], low, top, most_group))
                q_N = (left_NK[:, k] / self.groups[-1]).round_().clamp_(low, top)
                error_N = (left_NK[:, k] - q_N * self.groups[-1]) / upper_KK[k, k]
                left_NK[:, k + 1 : last].addr_(error_N, upper_KK[k, k + 1 : last], alpha=-1)
                self.q_NK[:, k], error_NB[:, k - first] = q_N, error_N
            left_NK[:, last:].addmm_(error_NB, upper_KK[first:last, last:], alpha=-1)


def _best_group(left_NE: Tensor, importance_E: Tensor, *limits: int) -> Tensor:
    """The group scale (N,) of least weighted error.   limits: the lowest and highest level, and the highest scale."""
    low, top, most = limits
    errors = [
        ((left_NE - (left_NE / scale).round_().clamp_(low, top) * scale).square_() @ importance_E)
        for scale in range(1, most + 1)
    ]
    return torch.stack(errors).argmin(dim=0).float() + 1


def _factor(hessian_KK: Tensor) -> Tensor:
    """The upper Cholesky factor (K, K) of the inverse of the damped Hessian."""
    mean = float(hessian_KK.diagonal().mean()) or 1.0
    damped_KK = hessian_KK.double() / mean
    damped_KK.diagonal().add_(DAMP)
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(damped_KK))
    return torch.linalg.cholesky(inverse_KK, upper=True).float()

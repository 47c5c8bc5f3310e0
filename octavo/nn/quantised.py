"""What a quantised linear computes, in torch: it calibrates later layers, and kernels are compared with it.

Axes: T tokens, N outputs, K inputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn.packed import rotated, rotation_of
from octavo.nn.quant import SMALLEST, TOP, Weight

BLOCK_ROWS = 16_384  # of a weight that are float32 at once


def round_rows(x_TK: Tensor) -> tuple[Tensor, Tensor]:
    """A quantised linear's inputs, rotated: whole numbers in float32 (T, K), and the scale of each token (T,)."""
    x_TK = torch.from_numpy(rotated(x_TK.numpy(), rotation_of(x_TK.shape[1])))
    largest_T = x_TK.abs().amax(dim=-1)
    silent_T = largest_T < SMALLEST
    inverse_T = torch.where(silent_T, 0.0, TOP / largest_T)
    return (x_TK * inverse_T[:, None]).round_(), torch.where(silent_T, 0.0, largest_T / TOP)


class QuantisedLinear(nn.Module):
    """x @ W.T + b with x rotated and rounded to int8 per token, and W rotated as it was quantised.

    x and result float32, on the CPU. The whole numbers are added up in float32, which is exact to 2^24 only: kernels
    differ in the last digits.
    """

    def __init__(self, weight: Weight, bias_N: Tensor | None) -> None:
        super().__init__()
        self.integers_NK, self.scale_N = torch.from_numpy(weight.integers()), torch.from_numpy(weight.scale_N)
        self.bias_N = bias_N

    def forward(self, x_TK: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        q_TK, scale_T = round_rows(x_TK)
        sums = [F.linear(q_TK, part.float()) for part in self.integers_NK.split(BLOCK_ROWS)]
        out_TN = torch.cat(sums, dim=-1) * scale_T[:, None] * self.scale_N
        return out_TN if self.bias_N is None else out_TN + self.bias_N

"""Low-rank adaptation: a frozen matrix and a small change beside it.   Axes: I inputs, O outputs, R rank.

Source: Hu et al. 2021, arXiv:2106.09685.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoraLinear(nn.Linear):
    """x W' + scale (x A') B', of which A (R, I) and B (O, R) learn. B begins as zeros: nothing is changed then."""

    def __init__(self, base: nn.Linear, *, rank: int, scale: float) -> None:
        """Takes the base's parameters themselves, and freezes them."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.rank, self.scale = base.in_features, base.out_features, rank, scale
        self.weight, self.bias = base.weight, base.bias
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        like = {"device": base.weight.device, "dtype": torch.float32}
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **like)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=5**0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        change = self.lora_B(self.lora_A(input.to(self.lora_A.weight.dtype)))
        return F.linear(input, self.weight, self.bias) + (self.scale * change).to(input.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One plain matrix that does the same; its weight is a new one."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        change_OI = self.scale * (self.lora_B.weight @ self.lora_A.weight)
        made.weight = nn.Parameter((self.weight.float() + change_OI).to(self.weight.dtype), requires_grad=False)
        made.bias = self.bias
        return made

"""Rotary positions.   Axes: T tokens, K head width, F = K/2 frequencies.   Source: RoFormer, arXiv:2104.09864."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """How positions turn into angles.

    kind       "default"; "linear" (positions / factor); "llama3" (Llama 3.1's banded scaling, from its reference
               code); "yarn" (arXiv:2309.00071)
    original   context in tokens the model was first trained for (llama3, yarn)
    low, high  band borders: llama3's low/high_freq_factor, yarn's beta_slow/beta_fast
    attention  factor on cos and sin; None: what the kind prescribes
    """

    width: int  # K
    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    attention: float | None = None
    truncate: bool = True  # yarn: round the band's borders to whole frequencies

    def frequencies(self, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
        """Radians per position (F,), fp32, and the factor on cos and sin."""
        exponent_F = torch.arange(0, self.width, 2, device=device, dtype=torch.float32) / self.width
        plain_F = 1.0 / (self.theta**exponent_F)
        if self.kind == "linear":
            return plain_F / self.factor, 1.0
        if self.kind == "llama3":
            return self._llama3(plain_F), 1.0
        if self.kind == "yarn":
            attention = self.attention
            if attention is None:
                attention = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
            return self._yarn(plain_F), attention
        return plain_F, 1.0

    def _llama3(self, plain_F: Tensor) -> Tensor:
        turns_F = self.original * plain_F / (2 * math.pi)  # full turns within the original context
        blend_F = ((turns_F - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain_F * (blend_F + (1 - blend_F) / self.factor)

    def _yarn(self, plain_F: Tensor) -> Tensor:
        def index_of(turns: float) -> float:
            return self.width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        first, last = index_of(self.high), index_of(self.low)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.width - 1)
        index_F = torch.arange(len(plain_F), device=plain_F.device, dtype=torch.float32)
        squeezed_F = ((index_F - first) / max(last - first, 1e-3)).clamp(0, 1)
        return plain_F * (1 - squeezed_F + squeezed_F / self.factor)


def rotation(rope: Rope, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin (T, K), fp32, for `rotate`: each frequency twice, its sine negative in the first half."""
    frequency_F, attention = rope.frequencies(positions_T.device)
    angle_TF = positions_T[:, None].float() * frequency_F
    cos_TF, sin_TF = angle_TF.cos() * attention, angle_TF.sin() * attention
    return torch.cat((cos_TF, cos_TF), dim=-1), torch.cat((-sin_TF, sin_TF), dim=-1)


def rotate(x_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """x with each pair (i, i + K/2) of a head turned by its angle. cos, sin in x's dtype. Works for G heads too."""
    return x_THK * cos_TK[:, None] + x_THK.roll(x_THK.shape[-1] // 2, -1) * sin_TK[:, None]

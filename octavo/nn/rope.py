"""How positions become angles.   Axes: K head width, F = K/2 frequencies.   Source: RoFormer, arXiv:2104.09864."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


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

    def frequencies(self) -> tuple[NDArray[Any], float]:
        """Radians per position (F,), fp32, and the factor on cos and sin.

        Powers are taken in fp64 and then rounded, so that they are the same everywhere: fp32 powers of a library are
        one last bit off now and then, where depends on the CPU. All else is rounded as `transformers` does.
        """
        power_F = self._powers()
        if self.kind == "linear":
            return 1 / power_F / self.factor, 1.0
        if self.kind == "llama3":
            return self._llama3(1 / power_F), 1.0
        if self.kind == "yarn":
            attention = self.attention
            if attention is None:
                attention = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
            return self._yarn(power_F), attention
        return 1 / power_F, 1.0

    def _powers(self) -> NDArray[Any]:
        exponent_F = np.arange(0, self.width, 2, dtype=np.float32) / np.float32(self.width)
        return np.power(self.theta, exponent_F, dtype=np.float64).astype(np.float32)

    def _llama3(self, plain_F: NDArray[Any]) -> NDArray[Any]:
        turns_F = self.original * (1 / (2 * math.pi * (1 / plain_F)))  # full turns within the original context
        kept_F = np.clip((turns_F - self.low) / (self.high - self.low), 0, 1)
        return (1 - kept_F) * plain_F / self.factor + kept_F * plain_F

    def _yarn(self, power_F: NDArray[Any]) -> NDArray[Any]:
        def index_of(turns: float) -> float:
            return self.width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        first, last = index_of(self.high), index_of(self.low)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.width - 1)
        index_F = np.arange(len(power_F)).astype(power_F.dtype)
        kept_F = 1 - np.clip((index_F - first) / max(last - first, 1e-3), 0, 1)
        return 1 / (self.factor * power_F) * (1 - kept_F) + 1 / power_F * kept_F

"""Learning rates over a run: pure functions of how far it is.   progress: 0 at the first step, 1 after the last."""

import math
from typing import Literal

from msgspec import Struct

from octavo.core.errors import ConfigError

Shape = Literal["constant", "linear", "cosine", "wsd"]


class Schedule(Struct, frozen=True, kw_only=True):
    """What a learning rate is multiplied by, as a function of the step (from 0) of `steps`.

    warmup   steps over which it rises from 1 / (warmup + 1) to 1
    decay    of "wsd" (warm-up, stable, decay): the last share of the steps, over which it falls in a line
    least    where it ends; all shapes but "constant" reach it after the last step
    again    steps of each round that may follow after the last step, over which it falls anew; 0: it stays at its end
    Source of wsd: MiniCPM, arXiv:2404.06395.
    """

    shape: Shape
    steps: int
    warmup: int = 0
    decay: float = 0.3
    least: float = 0.0
    again: int = 0

    def __call__(self, step: int) -> float:
        """The factor at a step. Raises ConfigError for a shape that is none of these."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.again and step >= self.steps:
            return 1 - (1 - self.least) * ((step - self.steps) % self.again) / self.again
        left = 1 - min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        falls = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2,
                 "wsd": min(1.0, left / max(self.decay, 1e-9))}  # fmt: skip
        if self.shape not in falls:
            raise ConfigError(f"a learning rate has no shape {self.shape!r}: choose {', '.join(falls)}.")
        return 1.0 if self.shape == "constant" else self.least + (1 - self.least) * falls[self.shape]

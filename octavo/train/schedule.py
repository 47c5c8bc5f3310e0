"""Learning rates over a run: pure functions of how far it is.   progress: 0 at the first step, 1 after the last."""

import math
from typing import Literal

from octavo.core.errors import ConfigError

Shape = Literal["constant", "linear", "cosine", "wsd"]


def factor(shape: Shape, *, step: int, steps: int, warmup: int = 0, decay: float = 0.3, least: float = 0.0) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `steps`.

    warmup   steps over which it rises from 1 / (warmup + 1) to 1
    decay    of "wsd" (warm-up, stable, decay): the last share of the steps, over which it falls in a line
    least    where it ends; all shapes but "constant" reach it after the last step
    Source of wsd: MiniCPM, arXiv:2404.06395. Raises ConfigError for a shape that is none of these.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        return least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2
    if shape == "linear":
        return least + (1 - least) * (1 - progress)
    if shape == "wsd":
        return least + (1 - least) * min(1.0, (1 - progress) / max(decay, 1e-9))
    raise ConfigError(f"a learning rate has no shape {shape!r}: choose constant, linear, cosine or wsd.")

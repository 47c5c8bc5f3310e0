"""The one currency of training: pre-training, SFT, fusion, RL and distillation all make samples, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import SampleError


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One document: tokens end to end, and what is to be learnt of each.   Axis: T tokens.

    tokens       (T,) int32
    weights      (T,) float32: how much token t counts as something to predict; 0 on all that the model did not write
                 (prompt, tools' answers, forced tokens). The first token's is 0: nothing predicts it
    logprobs     (T,) float32 or None: nats under the weights that sampled it; NaN where it was not sampled
    advantages   (T,) float32 or None: how much better than expected the reply was, unitless
    name         where it comes from, for error messages
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]
    logprobs: NDArray[np.float32] | None = None
    advantages: NDArray[np.float32] | None = None
    name: str = ""

    def __len__(self) -> int:
        return len(self.tokens)


def sample(
    tokens: Sequence[int],
    weights: Sequence[float],
    *,
    logprobs: Sequence[float] | None = None,
    advantages: Sequence[float] | None = None,
    name: str = "",
) -> Sample:
    """A sample that has been checked. Raises SampleError: lengths differ, a weight is not finite, nothing to learn."""
    axes = {"weights": weights, "logprobs": logprobs, "advantages": advantages}
    for axis, values in axes.items():
        if values is not None and len(values) != len(tokens):
            raise SampleError(
                f"sample {name or '?'}: {len(tokens)} tokens but {len(values)} {axis}: one each is needed."
            )
    weights_T = np.array(weights, dtype=np.float32)
    if len(tokens):
        weights_T[0] = 0.0
    if not np.isfinite(weights_T).all():
        raise SampleError(f"sample {name or '?'}: a weight is not a finite number.")
    if not weights_T.any():
        raise SampleError(
            f"sample {name or '?'}: there is nothing to learn in its {len(tokens)} tokens: no token that the model "
            f"writes has a weight. Is there an assistant message, and does the format mark it as the model's own?"
        )
    return Sample(
        np.array(tokens, dtype=np.int32), weights_T,
        logprobs=None if logprobs is None else np.array(logprobs, dtype=np.float32),
        advantages=None if advantages is None else np.array(advantages, dtype=np.float32), name=name,
    )  # fmt: skip

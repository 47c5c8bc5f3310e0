"""One step for any algorithm.   Axes: T tokens, N tokens to predict, D model."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.head import Told, tell, weighted_surprise
from octavo.train.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What an algorithm wants of each token: the gradient is that of the sum over N of

        push_N * -log p(target)  +  pull_N * KL(model || teacher)

    where both are constants. A clipped policy gradient is a push (its derivative by log p); so is a preference loss.
    loss       the algorithm's own objective, to be shown
    figures    more to be shown: name -> sum over the batch and the count it is to be divided by
    """

    push_N: Tensor
    loss: Tensor
    pull_N: Tensor | None = None
    figures: dict[str, tuple[float, float]] | None = None


class Algorithm(Protocol):
    """How to learn from a batch.

    needs_told   whether `terms` looks at what the model now says of the targets: that costs a pass through the head
    """

    needs_told: bool

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """scale   what sums are divided by, over all ranks and micro-batches: so no mean of means is ever taken"""
        ...


class Learner(nn.Module):
    """A model and how it learns, as one module: what FSDP shards, and what `step` calls."""

    def __init__(self, model: Decoder, algorithm: Algorithm) -> None:
        super().__init__()
        self.model, self.algorithm = model, algorithm

    def forward(self, batch: Batch, scale: float) -> tuple[Tensor, Terms]:
        """The scalar whose gradient is to be taken, and what the algorithm said."""
        hidden_TD = self.model(batch.tokens_T, PackedContext(batch.lengths, device=batch.tokens_T.device))
        hidden_ND, head_VD = hidden_TD[batch.rows_N], self.model.head_weight
        told = tell(hidden_ND, head_VD, batch.targets_N) if self.algorithm.needs_told else None
        terms = self.algorithm.terms(batch, told, scale=scale)
        return weighted_surprise(hidden_ND, head_VD, batch.targets_N, terms.push_N), terms


class CrossEntropy:
    """Pre-training, SFT, fusion, off-policy distillation: the weighted mean of -log p.

    The mean is over all trained tokens of the whole step, so a token counts the same wherever it was packed.
    """

    needs_told = False

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """push = weight / scale; the loss shown is the head's sum itself."""
        del told
        return Terms(push_N=batch.weights_N / scale, loss=torch.zeros(()))

"""Experts kept in use over the whole step's tokens.   Axes: E experts."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from octavo.nn.moe import Routed

Layers = dict[int, Routed]  # layer -> where tokens went


class Balance:
    """The load-balancing loss, coefficient times the mean over layers of

        E * sum over experts of f_e * P_e

    f_e   share of the step's tokens that chose the expert: over all ranks, and all micro-batches of the step so far
    P_e   mean chance of the expert over the micro-batch's tokens, which is what learns
    Even use gives C, the number of experts a token chooses. Taking f over the global batch lets a domain have its own
    experts. Source: arXiv:2501.11873, arXiv:2505.09388.
    """

    def __init__(self, coefficient: float, *, across: Callable[[Tensor], Tensor] = torch.clone) -> None:
        """across: the sum of a tensor over all ranks."""
        self.coefficient, self.across = coefficient, across
        self.counts: dict[int, Tensor] = {}
        self.tokens, self.whole = torch.zeros((), dtype=torch.int64), 0

    def begin(self, tokens: int = 0) -> None:
        """A new step: what was counted is forgotten. tokens: that it will have, over all ranks; 0: one batch is all."""
        self.counts.clear()
        self.tokens.zero_()
        self.whole = tokens

    def part(self, tokens: int) -> float:
        """How much of the step's loss a micro-batch of so many tokens is: so P is a mean over the step's tokens."""
        return tokens / self.whole if self.whole else 1.0

    def shares(self, layers: Layers, tokens: int) -> dict[int, Tensor]:
        """f of each layer, a micro-batch of so many tokens included."""
        self.tokens += self.across(torch.tensor(tokens))
        for layer, routed in layers.items():
            counts_E = self.across(routed.counts_E)
            self.counts[layer] = self.counts[layer] + counts_E if layer in self.counts else counts_E
        return {layer: self.counts[layer] / self.tokens for layer in layers}

    def value(self, layers: Layers, shares: dict[int, Tensor], tokens: int) -> Tensor:
        """The mean over layers, without the coefficient; differentiable by the chances."""
        each = [len(shares[layer]) * (shares[layer] @ routed.chances_E) / tokens for layer, routed in layers.items()]
        return torch.stack(each).mean()

    def slopes(self, shares: dict[int, Tensor], tokens: int, *, part: float) -> dict[int, Tensor]:
        """The gradient of `part` of the loss by every token's chances, layer by layer."""
        factor = self.coefficient * part / (tokens * len(shares))
        return {layer: share_E * (factor * len(share_E)) for layer, share_E in shares.items()}


def together(parts: Iterable[Layers]) -> Layers:
    """Over the tokens of several parts."""
    whole = Layers()
    for part in parts:
        for layer, one in part.items():
            had = whole.get(layer)
            whole[layer] = one if had is None else Routed(had.counts_E + one.counts_E, had.chances_E + one.chances_E)
    return whole

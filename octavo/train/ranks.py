"""The processes that learn together. Here: one alone; many are in `parallel.py`, which imports what they need."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from octavo.train.step import Learner


class Ranks:
    """One process alone.

    rank      this one's number;   size   how many there are
    readers   how many of them learn from different batches: all, but where several hold parts of the same matrices;
    reader    this one's number among those
    """

    rank, size, reader, readers = 0, 1, 0, 1
    device = torch.device("cpu")

    def divide(self, learner: "Learner") -> None:
        """Give each rank its part of the parameters, in place."""

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all readers."""
        return list(values)

    def across(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all readers."""
        return x.clone()

    def whole(self, x: Tensor) -> Tensor:
        """All of a tensor of which each rank may have a part; all ranks must ask together."""
        return x

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """This rank's part of a whole tensor, as that of `like`."""
        del like
        return whole

    def wait(self) -> None:
        """Until all ranks are here."""

"""The processes that learn together. Here: one alone; many are in `parallel.py`, which imports what they need."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from octavo.train.step import Learner

T = TypeVar("T")


class Ranks:
    """One process alone.

    rank      this one's number;   size   how many there are
    readers   how many of them learn from different batches: all, but where several hold parts of the same matrices;
    reader    this one's number among those
    """

    rank, size, reader, readers = 0, 1, 0, 1

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def divide(self, learner: "Learner") -> None:
        """Give each rank its part of the parameters, in place, on its device."""
        learner.to(self.device)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all readers."""
        return list(values)

    def most(self, value: int) -> int:
        """The largest over all readers."""
        return value

    def first_says(self, value: bool) -> bool:
        """What the first rank says; all ranks must ask together."""
        return value

    def share(self, items: Sequence[T]) -> list[T]:
        """Every so many-th of what all readers have: this one's."""
        return list(items[self.reader :: self.readers])

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What `share` gave the readers, in its order, with what each has made of its own."""
        return list(mine)

    def across(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all readers."""
        return x.clone()

    def clip(self, parameters: Sequence[nn.Parameter], *, most: float) -> float:
        """The norm of all gradients together, which are then made smaller where it is more than `most`."""
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))

    def whole(self, x: Tensor) -> Tensor:
        """All of a tensor of which each rank may have a part; all ranks must ask together."""
        return x

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """This rank's part of a whole tensor, as that of `like`."""
        del like
        return whole

    def wait(self) -> None:
        """Until all ranks are here."""

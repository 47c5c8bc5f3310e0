"""Samples that begin alike, and learn nothing of that beginning: one document, a trunk with branches.

Groups of replies to one prompt, and pairs of preferences, are like that: their prompt is computed once.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from octavo.core.sample import Sample
from octavo.nn.context import Length

LEAST_TRUNK = 16  # tokens that are worth a fork


class Fork:
    """Samples of one document.   trunk: how many tokens all of them begin with; 0 where there is one sample"""

    def __init__(self, one: Sample) -> None:
        self.samples, self.trunk = [one], 0

    def shared(self, one: Sample) -> int:
        """How many tokens the trunk has if this sample becomes a branch too; 0: it does not. The second sample decides
        where the trunk ends."""
        first = self.samples[0]
        most = self.trunk or min(_unlearnt(first), _unlearnt(one))
        alike = _alike(first.tokens[:most], one.tokens[:most])
        if self.trunk:
            return self.trunk if alike == self.trunk <= _unlearnt(one) else 0
        return alike if alike >= LEAST_TRUNK else 0

    def add(self, one: Sample, shared: int) -> None:
        """A branch, of which the trunk holds so many tokens."""
        self.trunk = shared
        self.samples.append(one)

    @property
    def length(self) -> Length:
        """As a batch says it."""
        if not self.trunk:
            return len(self.samples[0])
        return self.trunk, *(len(one) - self.trunk for one in self.samples)


def forks(samples: Iterable[Sample]) -> list[Fork]:
    """The documents that samples make, each of neighbours."""
    found = list[Fork]()
    for one in samples:
        if found and (shared := found[-1].shared(one)):
            found[-1].add(one, shared)
        else:
            found.append(Fork(one))
    return found


def _unlearnt(one: Sample) -> int:
    """Tokens before the first that is learnt."""
    return int(np.argmax(one.weights != 0))


def _alike(some: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many tokens at the beginning are the same."""
    size = min(len(some), len(other))
    differ = np.flatnonzero(some[:size] != other[:size])
    return int(differ[0]) if len(differ) else size

"""Documents as what the steps of a run read, from anywhere in the run and on any number of ranks.   Axes: T tokens."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ConfigError, SampleError
from octavo.core.sample import Sample, sample
from octavo.train.batch import Batch, pack
from octavo.train.ranks import Ranks


class Pieces:
    """Documents' tokens in groups, each of which a forward pass takes. All are read once before any is read again.

    Each document ends with a token of its own, and long ones are cut; every token but a piece's first is learnt.
    Group i is a pure function of i.
    """

    def __init__(self, documents: Iterable[Sequence[int]], *, end: int, longest: int, tokens: int, seed: int) -> None:
        """end: the token;   longest: tokens of a piece;   tokens: of a group, at most. Raises SampleError: no text."""
        self.tokens, self.seed, self.pieces = tokens, seed, list[NDArray[np.int32]]()
        self.longest = min(longest, tokens)
        for one in documents:
            whole_T = np.array([*one, end], dtype=np.int32)
            cut = [whole_T[start : start + self.longest] for start in range(0, len(whole_T), self.longest)]
            self.pieces += [piece_T for piece_T in cut if len(piece_T) > 1]
        if not self.pieces:
            raise SampleError("there is no text to learn from: the documents are empty, or pieces are too short.")
        self.epochs = list[list[NDArray[np.int64]]]()

    def group(self, number: int) -> list[Sample]:
        """Group `number`, 0 and on without end."""
        epoch = 0
        while number >= len(groups := self._groups(epoch)):
            number -= len(groups)
            epoch += 1
        return [self._sample(int(place)) for place in groups[number]]

    def _groups(self, epoch: int) -> list[NDArray[np.int64]]:
        """The pieces' numbers in an order of that epoch, cut where a group is full."""
        while len(self.epochs) <= epoch:
            order = np.random.default_rng((self.seed, len(self.epochs))).permutation(len(self.pieces))
            borders, size = list[int](), 0
            for place, piece in enumerate(order):
                if size + len(self.pieces[piece]) > self.tokens:
                    borders.append(place)
                    size = 0
                size += len(self.pieces[piece])
            self.epochs.append(np.split(order, borders))
        return self.epochs[epoch]

    def _sample(self, place: int) -> Sample:
        tokens_T = self.pieces[place]
        return sample(tokens_T.tolist(), [1.0] * len(tokens_T), name=f"piece {place}")

    def batches(self, step: int, ranks: Ranks, *, of: int) -> list[Batch]:
        """This rank's batches of a step of `of` groups. Raises ConfigError where they are not as many for each rank."""
        check_share(of, ranks)
        numbers = range(step * of + ranks.reader, (step + 1) * of, ranks.readers)
        return [pack(self.group(number)).to(ranks.device) for number in numbers]


def check_share(batches: int, ranks: Ranks) -> None:
    """Raise ConfigError where the batches of a step are not as many for each rank."""
    if batches % ranks.readers:
        raise ConfigError(f"batches={batches} of a step cannot be shared by {ranks.readers} processes: give each of "
                          f"`stages` a multiple of {ranks.readers}.")  # fmt: skip


def held_out(texts: Sequence[Sequence[int]], every: int) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """What is learnt, and what is only measured: each so many-th text, none where `every` is 0 or there are too few.

    Raises ConfigError where nothing would be learnt.
    """
    if every == 1:
        raise ConfigError("held_out=1: each document would be measured and none learnt: give 0, or 2 or more.")
    if not every or len(texts) <= every:
        return list(texts), []
    return [one for i, one in enumerate(texts) if i % every], list(texts[::every])

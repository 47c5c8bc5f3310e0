"""Samples end to end on one axis: the only packer.   Axes: T tokens, N tokens to predict, B samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.errors import SampleError
from octavo.core.sample import Sample
from octavo.nn.context import Length
from octavo.train.forks import Fork, forks

PLAIN = ("lengths", "samples")  # what of a batch is no tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one forward pass learns from. Documents never attend to each other: `lengths` says where they end.

    tokens_T       int64;   lengths   of each document: a sample, or several that share a beginning of which nothing is
                   learnt: a trunk that they branch from. Their sum is T
    rows_N         int64: the rows of the T axis that predict something to learn, sample by sample; a trunk's last row
                   is that of the first token of each branch
    targets_N      int64: what row rows_N[i] should predict: the token after it
    weights_N      float32: how much it counts, never 0 but in a batch that is `idle`
    logprobs_N     float32: nats under the weights that sampled the target; NaN where it was not sampled
    advantages_N   float32: of the target; 0 where there is none
    samples_N      int64: which of the B samples a target belongs to;   samples   B
    """

    tokens_T: Tensor
    lengths: tuple[Length, ...]
    rows_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    logprobs_N: Tensor
    advantages_N: Tensor
    samples_N: Tensor
    samples: int

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""
        tensors = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in PLAIN}
        return Batch(lengths=self.lengths, samples=self.samples, **{name: x.to(device) for name, x in tensors.items()})


def pack(samples: Sequence[Sample], *, share: bool = False) -> Batch:
    """Samples in their order, nothing cut, nothing padded. Raises SampleError where there is none.

    share: what neighbours begin with and do not learn is there once, see `forks`
    """
    if not samples:
        raise SampleError("there is no sample to pack.")
    documents = forks(samples) if share else [Fork(one) for one in samples]
    tokens, rows, learnt, at = list[NDArray[np.int32]](), list[NDArray[np.intp]](), list[NDArray[np.intp]](), 0
    for fork in documents:
        split = at + fork.trunk - 1  # the trunk's last row
        for number, one in enumerate(fork.samples):
            start, places = fork.trunk if number else 0, np.flatnonzero(one.weights)
            # the first token of a sample has weight 0, so no row is another document's
            rows.append(np.where(places == start, split, at + places - start - 1))
            learnt.append(places)
            tokens.append(one.tokens[start:])
            at += len(one) - start

    def chosen(values: Iterable[NDArray[Any] | None], missing: float = 0.0) -> Tensor:
        found = [
            np.full(len(places), missing, np.float32) if x is None else x[places]
            for x, places in zip(values, learnt, strict=True)
        ]
        return torch.from_numpy(np.concatenate(found))

    return Batch(
        tokens_T=torch.from_numpy(np.concatenate(tokens).astype(np.int64)), samples=len(samples),
        lengths=tuple(fork.length for fork in documents), rows_N=torch.from_numpy(np.concatenate(rows)),
        targets_N=chosen(one.tokens for one in samples).long(), weights_N=chosen(one.weights for one in samples),
        logprobs_N=chosen((one.logprobs for one in samples), np.nan),
        advantages_N=chosen(one.advantages for one in samples),
        samples_N=torch.from_numpy(np.repeat(np.arange(len(samples)), [len(places) for places in learnt])),
    )  # fmt: skip


def filled(samples: Iterable[Sample], *, tokens: int, share: bool = False) -> Iterator[list[Sample]]:
    """Groups of samples that together take at most `tokens` tokens, in order. Raises SampleError for a longer one."""
    group, size, fork = list[Sample](), 0, None
    for one in samples:
        check_length(one, tokens=tokens)
        shared = fork.shared(one) if fork is not None and share else 0
        if size + len(one) - shared > tokens:
            yield group
            group, size, fork, shared = [], 0, None, 0
        if fork is not None and shared:
            fork.add(one, shared)
        else:
            fork = Fork(one)
        group.append(one)
        size += len(one) - shared
    if group:
        yield group


def check_length(one: Sample, *, tokens: int) -> None:
    """Raise SampleError for a sample that a batch of so many tokens cannot take."""
    if len(one) > tokens:
        raise SampleError(
            f"sample {one.name or '?'} has {len(one)} tokens, a batch takes {tokens}: raise tokens, or leave the "
            f"sample out. It is not cut: its end would teach to stop in the midst."
        )


def batches_of(samples: Iterable[Sample], *, tokens: int, device: torch.device | str = "cpu",
               share: bool = False) -> list[Batch]:  # fmt: skip
    """All samples, in as few passes of at most `tokens` tokens as their order allows.   share: as `pack` does"""
    return [pack(group, share=share).to(device) for group in filled(samples, tokens=tokens, share=share)]


def idle() -> Batch:
    """Nothing to learn: what a process passes through the model while others have a batch more."""
    zero = torch.zeros(1, dtype=torch.int64)
    nothing = torch.zeros(1)
    return Batch(tokens_T=torch.zeros(2, dtype=torch.int64), lengths=(2,), rows_N=zero, targets_N=zero,
                 weights_N=nothing, logprobs_N=nothing, advantages_N=nothing, samples_N=zero, samples=1)  # fmt: skip

"""Samples end to end on one axis: the only packer.   Axes: T tokens, N tokens to predict, B samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from octavo.core.errors import SampleError
from octavo.core.sample import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one forward pass learns from. Documents never attend to each other: `lengths` says where they end.

    tokens_T       int64;   lengths   tokens of each sample, their sum is T
    rows_N         int64: the rows of the T axis that predict something to learn, in order
    targets_N      int64: what row rows_N[i] should predict: the token after it
    weights_N      float32: how much it counts, never 0 but in a batch that is `idle`
    logprobs_N     float32: nats under the weights that sampled the target; NaN where it was not sampled
    advantages_N   float32: of the target; 0 where there is none
    samples_N      int64: which of the B samples a target belongs to
    """

    tokens_T: Tensor
    lengths: tuple[int, ...]
    rows_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    logprobs_N: Tensor
    advantages_N: Tensor
    samples_N: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""
        tensors = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "lengths"}
        return Batch(lengths=self.lengths, **{name: x.to(device) for name, x in tensors.items()})


def pack(samples: Sequence[Sample]) -> Batch:
    """Samples in their order, nothing cut, nothing padded. Raises SampleError where there is none."""
    if not samples:
        raise SampleError("there is no sample to pack.")
    lengths = tuple(len(one) for one in samples)
    weights_T = np.concatenate([one.weights for one in samples])
    tokens_T = np.concatenate([one.tokens for one in samples]).astype(np.int64)
    places_N = np.flatnonzero(weights_T)  # of targets; a sample's first token has weight 0, so none crosses a border
    unknown = [np.full(length, np.nan, dtype=np.float32) for length in lengths]
    none = [np.zeros(length, dtype=np.float32) for length in lengths]
    logprobs_T = np.concatenate(
        [u if s.logprobs is None else s.logprobs for s, u in zip(samples, unknown, strict=True)]
    )
    advantages_T = np.concatenate(
        [z if s.advantages is None else s.advantages for s, z in zip(samples, none, strict=True)]
    )
    samples_T = np.repeat(np.arange(len(samples)), lengths)
    return Batch(
        tokens_T=torch.from_numpy(tokens_T), lengths=lengths, rows_N=torch.from_numpy(places_N - 1),
        targets_N=torch.from_numpy(tokens_T[places_N]), weights_N=torch.from_numpy(weights_T[places_N]),
        logprobs_N=torch.from_numpy(logprobs_T[places_N]), advantages_N=torch.from_numpy(advantages_T[places_N]),
        samples_N=torch.from_numpy(samples_T[places_N]),
    )  # fmt: skip


def filled(samples: Iterable[Sample], *, tokens: int) -> Iterator[list[Sample]]:
    """Groups of samples that together have at most `tokens` tokens, in order. Raises SampleError for a longer one."""
    group, size = list[Sample](), 0
    for one in samples:
        if len(one) > tokens:
            raise SampleError(
                f"sample {one.name or '?'} has {len(one)} tokens, a batch takes {tokens}: raise tokens, or leave the "
                f"sample out. It is not cut: its end would teach to stop in the midst."
            )
        if size + len(one) > tokens:
            yield group
            group, size = [], 0
        group.append(one)
        size += len(one)
    if group:
        yield group


def batches_of(samples: Iterable[Sample], *, tokens: int, device: torch.device | str = "cpu") -> list[Batch]:
    """All samples, in as few passes of at most `tokens` tokens as their order allows."""
    return [pack(group).to(device) for group in filled(samples, tokens=tokens)]


def idle() -> Batch:
    """Nothing to learn: what a process passes through the model while others have a batch more."""
    zero = torch.zeros(1, dtype=torch.int64)
    nothing = torch.zeros(1)
    return Batch(tokens_T=torch.zeros(2, dtype=torch.int64), lengths=(2,), rows_N=zero, targets_N=zero,
                 weights_N=nothing, logprobs_N=nothing, advantages_N=nothing, samples_N=zero)  # fmt: skip

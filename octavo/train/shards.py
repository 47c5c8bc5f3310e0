"""A batch learnt in pieces of whole documents, on several threads, by the passes that are written out.

How a batch is cut depends on its lengths alone, and the pieces' gradients are summed in their order: the number of
threads changes no bit.   Axes: T tokens, D model, N tokens to predict, V vocabulary."""

import ctypes
import os
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.models.backprop import Balance, Passes, Run
from octavo.models.backprop_mlp import Gradients
from octavo.nn.context import Length, length_tokens
from octavo.nn.divergence import Teacher, divergence_and_slopes
from octavo.nn.head import Slopes, Told, surprise_and_slopes, tell
from octavo.nn.kernels import usable_cores
from octavo.train.batch import Batch

SHARD_TOKENS = 4096  # of a piece, at most, about: each piece has calls that take a while however few tokens it has
WIDE_SHARD_TOKENS, WIDE = 2048, 1024  # likewise of models so wide: what a piece keeps for its way back grows with it
LEAST_TOKENS = 1024  # of a piece where a batch is cut in two only: each piece has gradients to add
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENAS = -1, -3, -8  # names of options in glibc's malloc.h
FILLING = 32  # tokens of a document that only fills up
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Shard(NamedTuple):
    """Documents of a batch that follow each other: where they lie on its axes of tokens and targets."""

    tokens: slice
    targets: slice
    lengths: tuple[Length, ...]


class Pull(NamedTuple):
    """Towards whom, how much at each target, and by which divergence: see `Terms`."""

    weights_N: Tensor
    teacher: Teacher
    reverse: bool


def cut(batch: Batch, *, width: int) -> list[Shard]:
    """About equal pieces of whole documents, an even number: with three, one of two threads waits for a piece.

    width: of the model's residual stream
    """
    most = SHARD_TOKENS if width < WIDE else WIDE_SHARD_TOKENS
    ends = [0, *accumulate(map(length_tokens, batch.lengths))]
    count = 2 * -(-ends[-1] // (2 * most)) if ends[-1] >= 2 * LEAST_TOKENS else 1
    borders = [bisect_left(ends, ends[-1] * piece / count) for piece in range(count + 1)]
    rows = {first: int((batch.rows_N < ends[first]).sum()) for first in borders}  # of the documents before
    return [
        Shard(slice(ends[first], ends[last]), slice(rows[first], rows[last]), batch.lengths[first:last])
        for first, last in pairwise(borders)
        if first < last
    ]


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "octavo-train", initializer=torch.set_num_threads, initargs=(1,))


def own_threads() -> int:
    """Threads of a step where nobody says: the cores this process may use, or OMP_NUM_THREADS where that is fewer."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(named)) if named.isdecimal() and int(named) else usable_cores()


@contextmanager
def workers(pieces: int, *, threads: int) -> Generator[Each]:
    """A `map` over so many pieces, on so many threads, each of which computes alone.

    Torch's own threads compute together only where there is one piece. Otherwise, and after it, torch has one: its
    threads wait for each other by spinning, which takes several times as long where another program has a core.
    """
    try:
        torch.set_num_threads(threads if pieces == 1 else 1)
        yield map if threads == 1 or pieces == 1 else _workers(threads).map
    finally:
        torch.set_num_threads(1)


@cache
def keep_freed_memory() -> None:
    """The process keeps memory that is freed, from now on: the next step wants it again.

    Else the C library hands large blocks back each time, and the system clears them anew: a third of a small step.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if adjust is not None:
        for option, value in ((MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1), (ARENAS, 1)):
            adjust(option, value)


def missing(count: int) -> int:
    """Rows to add to so many, at most a sixteenth (and 15), so that few numbers of rows are met.

    For products in bf16 oneDNN compiles code for each number of rows; compiling took a third of a small step.
    """
    return -count % (1 << max(4, count.bit_length() - 5))


def fills(passes: Passes) -> bool:
    """Whether pieces are filled up: not where tokens go to experts, whose numbers of rows differ anyway."""
    return passes.dtype == torch.bfloat16 and passes.model.config.moe is None


class Piece:
    """A shard under way, with tokens and targets that only fill it up: they weigh nothing."""

    def __init__(self, passes: Passes, batch: Batch, shard: Shard) -> None:
        """The forward pass."""
        tokens_T, targets = batch.tokens_T[shard.tokens], shard.targets.stop - shard.targets.start
        more, self.more = (missing(len(tokens_T)), missing(targets)) if fills(passes) else (0, 0)
        fillers = (min(FILLING, more - done) for done in range(0, more, FILLING))
        self.passes, self.targets = passes, shard.targets
        self.rows_N = F.pad(batch.rows_N[shard.targets] - shard.tokens.start, (0, self.more))
        self.targets_N = self._own(batch.targets_N)
        self.run: Run = passes.run(F.pad(tokens_T, (0, more)), (*shard.lengths, *fillers))
        self.hidden_ND = self.run.hidden_TD[self.rows_N]

    def _own(self, x_N: Tensor) -> Tensor:
        """This piece's rows of something of the whole batch, zeros where they only fill up."""
        return F.pad(x_N[self.targets], (*(0, 0) * (x_N.dim() - 1), 0, self.more))

    def _told(self, x_N: Tensor) -> Tensor:
        return x_N[: len(x_N) - self.more]

    def hidden(self) -> Tensor:
        """States (N, D) before the head."""
        return self._told(self.hidden_ND)

    def tell(self) -> Told:
        """What the model says of this piece's targets."""
        told = tell(self.hidden_ND, self.passes.head_VD, self.targets_N, kernels=self.passes.kernels)
        return Told(*map(self._told, told))

    @torch.no_grad()
    def learn(self, push_N: Tensor, *, pull: Pull | None = None,
              balance: Balance | None = None) -> tuple[Tensor, Gradients]:  # fmt: skip
        """The sum of push times -log p, and of pull times the divergence from a teacher; the gradients of all
        parameters. push_N, pull: of the whole batch."""
        push, kernels, head_VD = self._own(push_N), self.passes.kernels, self.passes.head_VD
        parts = list[Slopes]()
        if pull is None or push.any():
            parts.append(surprise_and_slopes(self.hidden_ND, head_VD, self.targets_N, push, kernels=kernels))
        if pull is not None:
            teacher = Teacher(self._own(pull.teacher.hidden_NE), pull.teacher.head_VE)
            parts.append(divergence_and_slopes(self.hidden_ND, head_VD, teacher, self._own(pull.weights_N),
                                               reverse=pull.reverse, kernels=kernels))  # fmt: skip
        slopes = parts[0] if len(parts) == 1 else Slopes(*(a + b for a, b in zip(*parts, strict=True)))
        dhidden_TD = torch.zeros_like(self.run.hidden_TD).index_add_(0, self.rows_N, slopes.hidden_ND)
        found = self.run.back(dhidden_TD, balance=balance)
        if self.passes.model.lm_head is None:
            found["model.embed_tokens.weight"] += slopes.head_VD
        else:
            found["lm_head.weight"] = slopes.head_VD
        return slopes.total, found


def summed(parts: Iterable[tuple[Tensor, Gradients]]) -> tuple[Tensor, Gradients]:
    """Totals and gradients of the pieces together, float32."""
    whole, total = Gradients(), torch.zeros(())
    for value, found in parts:
        total = total + value
        for name, grad in found.items():
            whole[name] = grad.float() if name not in whole else whole[name].add_(grad)
    return total, whole


class Known(torch.autograd.Function):
    """A value whose gradients are known: as if autograd had made it."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        """total, differentiable by the parameters."""
        del parameters
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        """The gradients times that of the total."""
        factor, gradients = float(outputs[0]), ctx.gradients
        ctx.gradients = ()  # what nobody else holds becomes the parameter's, and is not copied
        return None, None, *(grad if factor == 1 else grad * factor for grad in gradients)

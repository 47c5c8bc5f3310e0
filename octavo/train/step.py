"""One step for any algorithm.   Axes: T tokens, N tokens to predict, D model."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from octavo.core.errors import KernelError
from octavo.models.backprop import Gradients, Passes, unsupported
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.divergence import Teacher, weighted_divergence
from octavo.nn.head import Told, tell, weighted_surprise
from octavo.nn.kernels.training import training_kernels
from octavo.nn.moe import watched
from octavo.train.balance import Balance, together
from octavo.train.batch import Batch
from octavo.train.shards import (
    Each,
    Known,
    Piece,
    Pull,
    Shard,
    cut,
    keep_freed_memory,
    own_threads,
    summed,
    workers,
)


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What an algorithm wants of each token: the gradient is that of the sum over N of

        push_N * -log p(target)  +  pull_N * KL(model || teacher), or the other way round where not `reverse`

    where both are constants. A clipped policy gradient is a push (its derivative by log p); so is a preference loss.
    loss       the algorithm's own objective, to be shown; None: the sum that is learnt, without the balancing loss
    figures    more to be shown: name -> sum over the batch and the count it is to be divided by
    """

    push_N: Tensor
    loss: Tensor | None = None
    pull_N: Tensor | None = None
    reverse: bool = True
    figures: dict[str, tuple[float, float]] | None = None


class Algorithm(Protocol):
    """How to learn from a batch."""

    @property
    def needs_told(self) -> bool:
        """Whether `terms` looks at what the model now says of the targets: that costs a pass through the head."""
        ...

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """scale   what sums are divided by, over all ranks and micro-batches: so no mean of means is ever taken"""
        ...


class Learner(nn.Module):
    """A model and how it learns, as one module: what FSDP shards, and what `step` calls.

    On a CPU the passes that are written out in `models/backprop.py` do the work, under `torch.autocast` in bf16; where
    they cannot, and on other devices, autograd does.
    """

    def __init__(self, model: Decoder, algorithm: Algorithm, *, checkpoint: bool = False,
                 balance: Balance | None = None, teacher: Decoder | None = None,
                 threads: int | None = None) -> None:  # fmt: skip
        """checkpoint: keep less of the forward pass, and compute it again on the way back, layer by layer.

        teacher   who an algorithm pulls towards; it is read and never changed
        threads   of a step on a CPU, None: what `own_threads` says; torch itself is left with one after it
        """
        super().__init__()
        self.threads = own_threads() if threads is None else threads
        self.teacher = () if teacher is None else (teacher,)  # in a tuple it is no part of this module
        self.model, self.algorithm, self.checkpoint, self.balance = model, algorithm, checkpoint, balance
        if self.plain is None:
            keep_freed_memory()

    @property
    def plain(self) -> str | None:
        """Why autograd does the work; None where the passes that are written out do."""
        try:
            training_kernels()
        except KernelError as cause:
            return str(cause)
        return unsupported(self.model)

    def forward(self, batch: Batch, scale: float) -> tuple[Tensor, Terms]:
        """The scalar whose gradient is to be taken, and what the algorithm said.

        Of the balancing loss the micro-batch's part in the step's tokens is added.
        """
        part = self.balance.part(len(batch.tokens_T)) if self.balance is not None else 0.0
        if torch.is_grad_enabled() and self.plain is None:
            return self._written_out(batch, scale, part=part)
        self.model.model.checkpoint = self.checkpoint
        with watched(self.model) as layers:
            hidden_ND = _hidden(self.model, batch)
        with torch.autocast(hidden_ND.device.type, enabled=False):  # sums over tokens are never in bf16
            return self._plainly(batch, hidden_ND, layers, scale=scale, part=part)

    def _plainly(self, batch: Batch, hidden_ND: Tensor, layers: dict[int, Any], *, scale: float,
                 part: float) -> tuple[Tensor, Terms]:  # fmt: skip
        head_VD = self.model.head_weight
        told = tell(hidden_ND, head_VD, batch.targets_N) if self.algorithm.needs_told else None
        terms = self.algorithm.terms(batch, told, scale=scale)
        loss = weighted_surprise(hidden_ND, head_VD, batch.targets_N, terms.push_N)
        if terms.pull_N is not None:
            loss = loss + weighted_divergence(
                hidden_ND, head_VD, self._taught_plainly(batch, like=hidden_ND), terms.pull_N,
                reverse=terms.reverse,
            )  # fmt: skip
        if self.balance is not None and layers and torch.is_grad_enabled():
            shares = self.balance.shares(layers, len(batch.tokens_T))
            value = self.balance.value(layers, shares, len(batch.tokens_T))
            terms = shown(terms, loss, value=value.detach(), part=part)
            loss = loss + self.balance.coefficient * part * value
        return loss, terms

    @torch.no_grad()
    def surprise(self, batch: Batch) -> Tensor:
        """Sum over the targets of -log p in nats times their weight, a scalar."""
        hidden_ND = _hidden(self.model, batch)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            told = tell(hidden_ND, self.model.head_weight, batch.targets_N)
            return -(told.logprobs_N @ batch.weights_N)

    @torch.no_grad()
    def told(self, batch: Batch) -> Told:
        """What the model now says of a batch's targets, by the passes that would learn from it: so that an algorithm
        which compares with it later sees no other rounding."""
        if self.plain is not None:
            hidden_ND = _hidden(self.model, batch)
            with torch.autocast(hidden_ND.device.type, enabled=False):
                return tell(hidden_ND, self.model.head_weight, batch.targets_N)
        low, shards = _low(), cut(batch, width=self.model.config.heads.width)
        kernels = training_kernels(threads=1 if len(shards) > 1 else self.threads)
        with torch.autocast("cpu", enabled=False), workers(len(shards), threads=self.threads) as each:
            dtype = torch.bfloat16 if low else torch.float32
            passes = Passes(self.model, kernels, dtype=dtype, checkpoint=True)
            parts = each(lambda shard: Piece(passes, batch, shard).tell(), shards)
            return Told(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def _written_out(self, batch: Batch, scale: float, *, part: float) -> tuple[Tensor, Terms]:
        low = _low()
        shards, tokens = cut(batch, width=self.model.config.heads.width), len(batch.tokens_T)
        kernels = training_kernels(threads=1 if len(shards) > 1 else self.threads)
        balance, slopes, value = self.balance if self.model.config.moe is not None else None, None, torch.zeros(())
        with torch.autocast("cpu", enabled=False), workers(len(shards), threads=self.threads) as each:
            passes = Passes(
                self.model, kernels, dtype=torch.bfloat16 if low else torch.float32, checkpoint=self.checkpoint
            )
            pieces, told = list[Piece | Shard](shards), None
            if self.algorithm.needs_told or balance is not None:
                pieces = begun = list(each(lambda shard: Piece(passes, batch, shard), shards))
                if balance is not None:
                    layers = together(piece.run.routed for piece in begun)
                    shares = balance.shares(layers, tokens)
                    slopes = balance.slopes(shares, tokens, part=part)
                    value = balance.value(layers, shares, tokens)
            if self.algorithm.needs_told:
                told = Told(*(torch.cat(x) for x in zip(*each(Piece.tell, pieces), strict=True)))
            terms = self.algorithm.terms(batch, told, scale=scale)

            pull = None
            if terms.pull_N is not None:
                pull = Pull(terms.pull_N, self._taught(batch, shards, each, low=low), terms.reverse)

            def learn(piece: Piece | Shard) -> tuple[Tensor, Gradients]:
                piece = piece if isinstance(piece, Piece) else Piece(passes, batch, piece)
                return piece.learn(terms.push_N, pull=pull, balance=slopes)

            total, gradients = summed(each(learn, pieces))
        if balance is not None:
            terms = shown(terms, total, value=value, part=part)
            total = total + balance.coefficient * part * value
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        loss = Known.apply(total, tuple(gradients[name] for name in names), *parameters)
        assert isinstance(loss, Tensor)
        return loss, terms

    def _teacher(self) -> Decoder:
        assert self.teacher, "an algorithm with a pull needs a teacher"
        return self.teacher[0]

    @torch.no_grad()
    def _taught_plainly(self, batch: Batch, *, like: Tensor) -> Teacher:
        teacher, low = self._teacher(), like.dtype != torch.float32
        with torch.autocast(like.device.type, dtype=like.dtype if low else None, enabled=low):
            return Teacher(_hidden(teacher, batch), teacher.head_weight)

    def _taught(self, batch: Batch, shards: list[Shard], each: Each, *, low: bool) -> Teacher:
        teacher, dtype = self._teacher(), torch.bfloat16 if low else torch.float32
        if unsupported(teacher) is not None:
            torch.set_num_threads(self.threads)  # the pieces' threads rest meanwhile
            try:
                taught = self._taught_plainly(batch, like=torch.empty(0, dtype=dtype))
            finally:
                torch.set_num_threads(1)
            return Teacher(taught.hidden_NE.to(dtype), taught.head_VE.to(dtype))
        kernels = training_kernels(threads=1 if len(shards) > 1 else self.threads)
        passes = Passes(teacher, kernels, dtype=dtype, checkpoint=True)
        hidden = each(lambda shard: Piece(passes, batch, shard).hidden(), shards)
        return Teacher(torch.cat(list(hidden)), passes.head_VD)


def _low() -> bool:
    """Whether products on a CPU are to be in bf16."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _hidden(model: Decoder, batch: Batch) -> Tensor:
    """Rows (N, D) before the head, in the type that products are computed in."""
    kind = batch.tokens_T.device.type
    hidden_ND: Tensor = model(batch.tokens_T, PackedContext(batch.lengths, device=batch.tokens_T.device))[batch.rows_N]
    return hidden_ND.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden_ND


@torch.no_grad()
def known(model: Decoder, batch: Batch) -> Batch:
    """With the log-probabilities that the model, as it now is, gives the targets, in its own precision."""
    return replace(batch, logprobs_N=tell(_hidden(model, batch), model.head_weight, batch.targets_N).logprobs_N)


def shown(terms: Terms, loss: Tensor, *, value: Tensor, part: float) -> Terms:
    """With the balancing loss among what is shown, and not in the loss."""
    loss = loss.detach() if terms.loss is None else terms.loss
    return replace(terms, loss=loss, figures={**(terms.figures or {}), "balance": (float(value.detach()) * part, part)})


class CrossEntropy:
    """Pre-training, SFT, fusion, off-policy distillation: the weighted mean of -log p.

    The mean is over all trained tokens of the whole step, so a token counts the same wherever it was packed.
    """

    needs_told = False

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """push = weight / scale; the loss shown is the head's sum itself."""
        del told
        return Terms(push_N=batch.weights_N / scale)

"""A model under training: one call learns from one step's batches. What it learns from is nobody's business here."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from octavo.core.errors import TrainingError
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.head import tell
from octavo.train.batch import Batch
from octavo.train.optimiser import Optimisation, optimisers
from octavo.train.step import Algorithm, Learner


class Learnt(Struct, frozen=True, kw_only=True):
    """What one step was.   loss: per trained token, of the whole step;   norm: of all gradients before clipping"""

    step: int
    loss: float
    norm: float
    rate: float
    tokens: int
    trained_tokens: int
    figures: dict[str, float] = {}


class Trainer:
    """Model, optimisers and step number.

    learner   has the model;   step   steps done;   rate   step -> factor of the learning rate
    """

    def __init__(self, model: Decoder, algorithm: Algorithm, how: Optimisation, *,
                 rate: Callable[[int], float] = lambda step: 1.0, bf16: bool = True,
                 checkpoint: bool = False, teacher: Decoder | None = None) -> None:  # fmt: skip
        """bf16: of products and activations; parameters, gradients and sums stay float32.

        teacher: who an algorithm pulls towards
        """
        self.how, self.rate, self.bf16 = how, rate, bf16
        self.learner = Learner(model, algorithm, checkpoint=checkpoint, teacher=teacher)
        self.optimisers = optimisers(model, how)
        self.step = 0

    @property
    def model(self) -> Decoder:
        """What is trained."""
        return self.learner.model

    def learn(self, batches: Sequence[Batch]) -> Learnt:
        """One step. The batches' gradients are summed: a token counts the same in whichever of them it lies.

        Raises TrainingError where the loss or a gradient is not finite; nothing has been changed then.
        """
        scale = float(sum(batch.weights_N.abs().sum() for batch in batches))
        total, sums = 0.0, dict[str, tuple[float, float]]()
        for batch in batches:
            with self._precision():
                loss, terms = self.learner(batch, scale)
            loss.backward()
            total += float((loss if terms.loss is None else terms.loss).detach())
            for name, (value, count) in (terms.figures or {}).items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + value, before[1] + count
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.how.clip))
        if not math.isfinite(norm) or not math.isfinite(total):
            self._forget()
            raise TrainingError(
                f"step {self.step}: loss {total}, gradient norm {norm}: not finite. Nothing was changed. Lower the "
                f"learning rate ({self.how.rate}), clip more ({self.how.clip}), or look at the step's samples."
            )
        factor = self.rate(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.how.rate * factor
            optimiser.step()
        self._forget()
        self.step += 1
        return Learnt(
            step=self.step, loss=total, norm=norm, rate=self.how.rate * factor,
            tokens=sum(len(batch.tokens_T) for batch in batches),
            trained_tokens=sum(len(batch.rows_N) for batch in batches),
            figures={name: value / max(count, 1e-9) for name, (value, count) in sums.items()},
        )  # fmt: skip

    @torch.no_grad()
    def surprise(self, batches: Sequence[Batch]) -> float:
        """Mean of -log p in nats over the batches' trained tokens, each counted by its weight: the held-out loss."""
        total, count = 0.0, 0.0
        for batch in batches:
            with self._precision():
                hidden_TD = self.model(batch.tokens_T, PackedContext(batch.lengths, device=batch.tokens_T.device))
                told = tell(hidden_TD[batch.rows_N], self.model.head_weight, batch.targets_N)
            total -= float((told.logprobs_N * batch.weights_N).sum())
            count += float(batch.weights_N.sum())
        return total / max(count, 1e-9)

    def tensors(self) -> dict[str, Tensor]:
        """All that a step reads and changes, by name: parameters, and what the optimisers keep."""
        found = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for at, optimiser in enumerate(self.optimisers):
            for index, kept in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{at}.{index}.{field}": value for field, value in kept.items()}
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], *, step: int) -> None:
        """Go on from `tensors()` of another time. Raises TrainingError where they are of another model or method."""
        for name, parameter in self.model.named_parameters():
            kept = tensors.get(f"model.{name}")
            if kept is None or kept.shape != parameter.shape:
                found = "nothing" if kept is None else f"shape {tuple(kept.shape)}"
                raise TrainingError(
                    f"the saved state has {found} for {name}, the model needs {tuple(parameter.shape)}."
                )
            parameter.copy_(kept)
        for at, optimiser in enumerate(self.optimisers):
            state, prefix = dict[int, dict[str, Any]](), f"optimiser.{at}."
            for name, value in tensors.items():
                if name.startswith(prefix):
                    index, field = name.removeprefix(prefix).split(".", 1)
                    state.setdefault(int(index), {})[field] = value.clone()
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step = step

    def _precision(self) -> Any:
        device = self.model.model.norm.weight.device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def _forget(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

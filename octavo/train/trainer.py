"""A model under training: one call learns from one step's batches. What it learns from is nobody's business here."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from octavo.core.errors import TrainingError
from octavo.models.decoder import Decoder, without_memory
from octavo.nn.head import Told
from octavo.nn.linear import multiplies_bf16
from octavo.text.tokenizer import Tokenizer
from octavo.train.balance import Balance
from octavo.train.batch import Batch, idle
from octavo.train.models import write_model
from octavo.train.optimiser import Optimisation, adjust, optimisers
from octavo.train.ranks import Ranks
from octavo.train.shards import workers
from octavo.train.speed import step_flops
from octavo.train.step import Algorithm, Learner


class Learnt(Struct, frozen=True, kw_only=True):
    """What one step was, over all ranks.

    loss    per trained token;   norm   of all gradients before clipping
    flops   floating-point operations of the model's arithmetic, forward and backward
    """

    step: int
    loss: float
    norm: float
    rate: float
    tokens: int
    flops: float = 0.0
    figures: dict[str, float] = {}


class Trainer:
    """Model, optimisers and step number.

    learner   has the model;   step   steps done;   rate   step -> factor of the learning rate
    """

    def __init__(self, model: Decoder, algorithm: Algorithm, how: Optimisation, *,
                 rate: Callable[[int], float] = lambda step: 1.0, bf16: bool = True,
                 checkpoint: bool = False, balance: float = 0.0, teacher: Decoder | None = None,
                 ranks: Ranks = Ranks()) -> None:  # fmt: skip
        """bf16: of products and activations, but on a CPU that does not multiply them itself, where all is float32 and
        `bf16` says so; parameters, gradients and sums always are.

        balance: coefficient of the loss that keeps experts in use;   teacher: who an algorithm pulls towards
        ranks: who learns together
        """
        self.how, self.rate, self.ranks = how, rate, ranks
        self.bf16 = bf16 and (ranks.device.type != "cpu" or multiplies_bf16())
        self.balance = Balance(balance, across=ranks.across) if balance else None
        self.learner = Learner(model, algorithm, checkpoint=checkpoint, balance=self.balance, teacher=teacher)
        ranks.divide(self.learner)
        self.optimisers = optimisers(model, how)
        self.step = 0

    @property
    def model(self) -> Decoder:
        """What is trained."""
        return self.learner.model

    def learn(self, batches: Sequence[Batch]) -> Learnt:
        """One step, from this rank's batches, however many each has. A token counts the same in whichever it lies.

        Raises TrainingError where the loss or a gradient is not finite; nothing has been changed then.
        """
        weights = float(sum(batch.weights_N.abs().sum() for batch in batches))
        scale, tokens = self.ranks.total([weights, sum(len(batch.tokens_T) for batch in batches)])
        if self.balance is not None:
            self.balance.begin(round(tokens))
        total, sums = 0.0, dict[str, tuple[float, float]]()
        waits = self.ranks.most(len(batches)) - len(batches)  # all go through the model as often
        for batch in (*batches, *(idle().to(self.ranks.device) for _ in range(waits))):
            with self._precision():
                loss, terms = self.learner(batch, scale)
            loss.backward()
            total += float((loss if terms.loss is None else terms.loss).detach())
            for name, (value, count) in (terms.figures or {}).items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + value, before[1] + count
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = self.ranks.clip(parameters, most=self.how.clip)
        total, *shown = self.ranks.total([total, *(x for pair in sums.values() for x in pair)])
        if not math.isfinite(norm) or not math.isfinite(total):
            self._forget()
            raise TrainingError(
                f"step {self.step}: loss {total}, gradient norm {norm}: not finite. Nothing was changed. Lower the "
                f"learning rate ({self.how.rate}), clip more ({self.how.clip}), or look at the step's samples."
            )
        factor = self.rate(self.step)
        for optimiser in self.optimisers:
            adjust(optimiser, self.how.rate * factor)
        self._move()
        self._forget()
        self.step += 1
        (flops,) = self.ranks.total([sum(step_flops(self.model.config, batch.lengths) for batch in batches)])
        pairs = zip(sums, shown[::2], shown[1::2], strict=True)
        return Learnt(
            step=self.step, loss=total, norm=norm, rate=self.how.rate * factor, tokens=round(tokens),
            flops=flops, figures={name: value / max(count, 1e-9) for name, value, count in pairs},
        )  # fmt: skip

    @torch.no_grad()
    def surprise(self, batches: Sequence[Batch]) -> float:
        """Mean of -log p in nats over the batches' trained tokens, each counted by its weight: the held-out loss.

        Each rank has as many batches of its own.
        """
        total, count = 0.0, 0.0
        for batch in batches:
            with self._precision():
                total += float(self.learner.surprise(batch))
            count += float(batch.weights_N.sum())
        total, count = self.ranks.total([total, count])
        return total / max(count, 1e-9)

    def told(self, batch: Batch) -> Told:
        """What the model now says of a batch's targets, in the precision that it is trained in."""
        with self._precision():
            return self.learner.told(batch)

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name: parameters that learn, and what the optimisers keep."""
        found = {f"model.{name}": p.detach() for name, p in self.learning()}
        for at, optimiser in enumerate(self.optimisers):
            for index, kept in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{at}.{index}.{field}": value for field, value in kept.items()}
        return found

    def learning(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that learn: all, but where changes are learnt beside frozen matrices."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def owners(self) -> dict[str, Tensor]:
        """Beginning of a name in `tensors()` -> the parameter that it is of."""
        found: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in self.learning()}
        for at, optimiser in enumerate(self.optimisers):
            moved = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            found |= {f"optimiser.{at}.{index}": parameter for index, parameter in enumerate(moved)}
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], *, step: int) -> None:
        """Go on from `tensors()` of another time. Raises TrainingError where they are of another model or method."""
        for name, parameter in self.learning():
            kept = tensors.get(f"model.{name}")
            if kept is None or kept.shape != parameter.shape:
                found = "nothing" if kept is None else f"shape {tuple(kept.shape)}"
                raise TrainingError(
                    f"the saved state has {found} for {name}, the model needs {tuple(parameter.shape)}."
                )
            parameter.copy_(self.ranks.part(kept, parameter))
        owners = self.owners()
        for at, optimiser in enumerate(self.optimisers):
            state, prefix = dict[int, dict[str, Any]](), f"optimiser.{at}."
            for name, value in tensors.items():
                if name.startswith(prefix):
                    index, field = name.removeprefix(prefix).split(".", 1)
                    owner = owners.get(f"{prefix}{index}")
                    if owner is None or (value.dim() and value.shape != owner.shape):
                        raise TrainingError(
                            f"the saved state has {name} of shape {tuple(value.shape)}: it is of "
                            "another optimiser or an older Octavo: begin a run in a folder of its own."
                        )
                    state.setdefault(int(index), {})[field] = self.ranks.part(value, owner).clone()
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step = step

    def whole_model(self) -> Decoder:
        """The model with all of its parameters on this machine: to write it down. All ranks must ask together."""
        if self.ranks.size == 1:
            return self.model
        whole = {name: self.ranks.whole(p.detach()).cpu() for name, p in self.model.named_parameters()}
        with without_memory():
            made = Decoder(self.model.config)
        made.load_state_dict(whole, assign=True)
        return made

    def write(self, folder: Path, *, config: Mapping[str, Any], tokenizer: Tokenizer,
              more: Mapping[str, Mapping[str, Any]] = {}, adapter: Path | None = None,
              ends: Sequence[int] = ()) -> None:  # fmt: skip
        """As `write_model`, by one of the ranks; all go on when it is there."""
        whole = self.whole_model()
        if self.ranks.rank == 0:
            write_model(folder, whole, config=config, tokenizer=tokenizer, more=more, adapter=adapter, ends=ends)
        self.ranks.wait()

    def _move(self) -> None:
        """The optimisers' steps, at the same time where this process alone has the cores: Muon's is a tenth of a step
        of a small model and more."""
        if self.ranks.size > 1 or self.learner.plain is not None:
            for optimiser in self.optimisers:
                optimiser.step()
            return
        with workers(len(self.optimisers), threads=self.learner.threads) as each:
            for _ in each(lambda optimiser: optimiser.step(), self.optimisers):
                pass

    def _precision(self) -> Any:
        device = self.model.model.norm.weight.device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def _forget(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

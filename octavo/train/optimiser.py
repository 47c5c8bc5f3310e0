"""Which parameters are moved by what: matrices of the layers by Muon or AdamW, all others by AdamW."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.core.errors import ConfigError
from octavo.nn.linear import multiplies_bf16

STACKED = 1 << 20  # numbers of the matrices that Muon takes at once, where they are of a shape


class Optimisation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How parameters are moved.

    method         of the layers' matrices; embeddings, norms, biases, a head and experts (three axes) take AdamW
    rate           learning rate of the layers' matrices: Muon's steps are scaled to have the size of AdamW's
    others         times that rate for all else: tokens that were never read have far to go, in few steps
    weight_decay   of the layers' matrices; nothing else decays
    clip           largest norm of all gradients together; inf: not clipped
    Source: AdamW, arXiv:1711.05101; Muon with its step's size, arXiv:2502.16982.
    """

    method: Literal["adamw", "muon"] = "adamw"
    rate: float = 1e-3
    others: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a rate, clip, decay or momentum that cannot be."""
        for field in ("rate", "others", "clip"):
            if not getattr(self, field) > 0:
                raise ConfigError(f"{field}={getattr(self, field)} must be more than 0.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay={self.weight_decay} must be 0 or more.")
        for field in ("rate", "others", "weight_decay"):
            if math.isinf(getattr(self, field)):
                raise ConfigError(f"{field}={getattr(self, field)} is no number to multiply with: give a finite one.")
        for field, value in (("momentum", self.momentum), *(("betas", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise ConfigError(f"{field}: {value} must be 0 or more, and less than 1.")


class StackedMuon(torch.optim.Muon):
    """Torch's Muon over many matrices of a shape at once: for small ones most of its time goes into single calls.

    Products are in bf16 as torch's, to the same bits, or in float32 for CPUs that do not multiply bf16 themselves.
    """

    def __init__(self, params: Iterable[nn.Parameter], how: Optimisation, *, products: torch.dtype) -> None:
        """products: their type."""
        super().__init__(params, lr=how.rate, weight_decay=how.weight_decay, momentum=how.momentum,
                         adjust_lr_fn="match_rms_adamw")  # fmt: skip
        self.products = products

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """As torch's, of one learning rate matched to AdamW's. Source: arXiv:2502.16982."""
        assert closure is None, "nobody asks for a loss here"
        for group in self.param_groups:
            for matrices in stacks([matrix for matrix in group["params"] if matrix.grad is not None]):
                self._step(matrices, group)

    def _step(self, matrices: list[nn.Parameter], group: Mapping[str, Any]) -> None:
        rate, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        grads = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix, grad in zip(matrices, grads, strict=True):
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(grad)
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        for average, grad in zip(averages, grads, strict=True):
            average.lerp_(grad, 1 - momentum)
        updates = [grad.lerp(average, momentum) for grad, average in zip(grads, averages, strict=True)]
        x = torch.stack(updates) if len(updates) > 1 else updates[0]
        made = orthogonal(x.to(self.products), group)
        for matrix, update in zip(matrices, made if len(updates) > 1 else [made], strict=True):
            matrix.mul_(1 - rate * decay)
            matrix.add_(update, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))


def stacks(matrices: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Matrices of one shape each, as many as STACKED numbers allow; one by one what is divided among machines."""
    alike = dict[torch.Size, list[nn.Parameter]]()
    for matrix in matrices:
        alike.setdefault(matrix.shape, []).append(matrix)
    for shape, some in alike.items():
        size = max(1, STACKED // shape.numel()) if all(type(one) is nn.Parameter for one in some) else 1
        yield from (some[first : first + size] for first in range(0, len(some), size))


def orthogonal(x_MN: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Nearly the orthogonal matrix that is nearest, by Newton and Schulz's iteration with Muon's coefficients. Also of
    a stack (B, M, N) of them."""
    (a, b, c), tall = group["ns_coefficients"], x_MN.shape[-2] > x_MN.shape[-1]
    multiply = torch.addmm if x_MN.dim() == 2 else torch.baddbmm
    wide = x_MN.mT if tall else x_MN
    wide = wide / torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        square = wide @ wide.mT
        wide = multiply(wide, multiply(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide


def adjust(optimiser: Optimizer, rate: float) -> None:
    """Let it go on at this rate, each group with its share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def optimisers(model: nn.Module, how: Optimisation) -> list[Optimizer]:
    """Optimisers that together move each trainable parameter, and may step at the same time: Muon's are two, each with
    half of the matrices. Raises ConfigError where there is nothing to move."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    heads = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = parameter.dim() == 2 and id(parameter) not in heads and not name.endswith("lm_head.weight")
            (matrices if inside else others).append(parameter)
    if not matrices and not others:
        raise ConfigError("there is nothing to train: all parameters are frozen.")
    groups = [{"params": others, "weight_decay": 0.0, "share": how.others}]
    made = list[Optimizer]()
    if how.method == "muon" and matrices:
        low = matrices[0].device.type != "cpu" or multiplies_bf16()
        made += [
            StackedMuon(half, how, products=torch.bfloat16 if low else torch.float32)
            for half in (matrices[::2], matrices[1::2]) if half
        ]  # fmt: skip
    else:
        groups.append({"params": matrices, "weight_decay": how.weight_decay})
    groups = [group for group in groups if group["params"]]
    if groups:
        made.append(torch.optim.AdamW(groups, lr=how.rate, betas=how.betas, fused=True))
    return made

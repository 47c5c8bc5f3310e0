"""Which parameters are moved by what: matrices of the layers by Muon or AdamW, all others by AdamW."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.core.errors import ConfigError
from octavo.nn.linear import multiplies_bf16


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
        """Raise ConfigError for a rate, clip or decay that cannot be."""
        for field in ("rate", "others", "clip"):
            if not getattr(self, field) > 0:
                raise ConfigError(f"{field}={getattr(self, field)} must be more than 0.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay={self.weight_decay} must be 0 or more.")


class WideMuon(torch.optim.Muon):
    """Torch's Muon with its products in float32, for CPUs that do not multiply bf16 themselves."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """As torch's, of one learning rate matched to AdamW's. Source: arXiv:2502.16982."""
        assert closure is None, "nobody asks for a loss here"
        for group in self.param_groups:
            rate, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = orthogonal(matrix.grad.lerp(state["momentum_buffer"], momentum), group)
                matrix.mul_(1 - rate * decay)
                matrix.add_(update, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(x_MN: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Nearly the orthogonal matrix that is nearest, by Newton and Schulz's iteration with Muon's coefficients."""
    a, b, c = group["ns_coefficients"]
    wide = x_MN.T if x_MN.shape[0] > x_MN.shape[1] else x_MN
    wide = wide / wide.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.T if x_MN.shape[0] > x_MN.shape[1] else wide


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
        kind = torch.optim.Muon if matrices[0].device.type != "cpu" or multiplies_bf16() else WideMuon
        made += [
            kind(half, lr=how.rate, weight_decay=how.weight_decay, momentum=how.momentum,
                 adjust_lr_fn="match_rms_adamw")
            for half in (matrices[::2], matrices[1::2]) if half
        ]  # fmt: skip
    else:
        groups.append({"params": matrices, "weight_decay": how.weight_decay})
    groups = [group for group in groups if group["params"]]
    if groups:
        made.append(torch.optim.AdamW(groups, lr=how.rate, betas=how.betas, fused=True))
    return made

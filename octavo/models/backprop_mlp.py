"""Forward and backward of a layer's MLP, dense or of experts, written out. What leaves the norm goes in, what is added
to the residual stream comes out.

Axes: T tokens, D model, I inner width, E experts, C chosen experts per token, M = T*C choices, by expert."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from octavo.nn.kernels.training import Panels, Tiles, TrainingKernels
from octavo.nn.layers import GatedMLP
from octavo.nn.moe import Routed, SparseMLP, routed

Gradients = dict[str, Tensor]  # parameter -> its gradient


class MLPPass(Protocol):
    """One state of an MLP's weights."""

    def forward(self, x_TD: Tensor) -> tuple[Any, Tensor]:
        """What is kept, and what is added."""
        ...

    def back(self, kept: Any, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None) -> tuple[Tensor, Gradients]:
        """The gradient by x and those of the weights, where those by what was added and by all chances are given."""
        ...


class Dense:
    """One state of a dense MLP's weights: gate and up as one."""

    def __init__(self, module: GatedMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> None:
        """Takes working copies."""
        self.kernels = kernels
        self.gate_up = together((module.gate_proj.weight, module.up_proj.weight), dtype)
        self.down = module.down_proj.weight.detach().to(dtype)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, and what is added."""
        both = x_TD @ self.gate_up.T
        return both, self.kernels.swiglu(both) @ self.down.T

    def back(self, kept: Tensor, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None,
             ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """As in `MLPPass`; there is nothing to balance."""
        assert balance_E is None
        dboth, made_TI = self.kernels.swiglu_back(dout_TD @ self.down, kept)
        dgate, dup = self.kernels.outer(dboth, x_TD).chunk(2)
        found = {"gate_proj.weight": dgate, "up_proj.weight": dup,
                 "down_proj.weight": self.kernels.outer(dout_TD, made_TI)}  # fmt: skip
        return dboth @ self.gate_up, found


class Tiled:
    """The same in tiles, bf16: SwiGLU is computed while the next product is."""

    def __init__(self, panels: Panels, kernels: TrainingKernels) -> None:
        self.panels, self.kernels = panels, kernels

    def forward(self, x_TD: Tensor) -> tuple[Tiles, Tensor]:
        """What is kept, and what is added."""
        return self.kernels.mlp(x_TD, self.panels)

    def back(self, kept: Tiles, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None,
             ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """As in `MLPPass`; there is nothing to balance."""
        assert balance_E is None
        dx_TD, made_TI = self.kernels.mlp_back(dout_TD, kept, self.panels)
        dgate, dup = self.kernels.outer(kept, x_TD).chunk(2)
        found = {"gate_proj.weight": dgate, "up_proj.weight": dup,
                 "down_proj.weight": self.kernels.outer(dout_TD, made_TI)}  # fmt: skip
        return dx_TD, found


def mlp_pass(module: GatedMLP | SparseMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> MLPPass:
    """One state of the weights of an MLP, in the fastest way there is."""
    if isinstance(module, SparseMLP):
        return Sparse(module, kernels, dtype=dtype)
    weights = module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight
    panels = kernels.panels(*(w.detach() for w in weights), dtype=dtype)
    return Dense(module, kernels, dtype=dtype) if panels is None else Tiled(panels, kernels)


class Routing(NamedTuple):
    """Where tokens went.

    logits_TE   of the router, a leaf of autograd;   chance_TE, weight_TC   made of it by autograd
    rows_M      the token of each choice;   place_M   the choice's place in weight_TC, flat;   counts   of each expert
    """

    logits_TE: Tensor
    chance_TE: Tensor
    weight_TC: Tensor
    rows_M: Tensor
    place_M: Tensor
    counts: list[int]

    def summed(self) -> Routed:
        """Over all tokens."""
        return Routed(torch.tensor(self.counts), self.chance_TE.detach().sum(0))


class SparseKept(NamedTuple):
    """What the backward pass of experts needs."""

    routing: Routing
    both: Tensor
    out_MD: Tensor


class Sparse:
    """One state of the weights of a router and its experts."""

    def __init__(self, module: SparseMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> None:
        """Takes working copies."""
        self.kernels, self.chosen, self.normalise = kernels, module.chosen, module.normalise
        self.gate_ED = module.gate.weight.detach().to(dtype)
        self.gate_up = module.experts.gate_up_proj.detach().to(dtype)
        self.down = module.experts.down_proj.detach().to(dtype)

    def _route(self, x_TD: Tensor) -> Routing:
        logits_TE = (x_TD @ self.gate_ED.T).requires_grad_()
        with torch.enable_grad():
            chance_TE, weight_TC, expert_TC = routed(logits_TE, chosen=self.chosen, normalise=self.normalise)
        place_M = expert_TC.flatten().argsort(stable=True)
        counts = torch.bincount(expert_TC.flatten(), minlength=len(self.gate_ED)).tolist()
        return Routing(logits_TE, chance_TE, weight_TC, place_M // self.chosen, place_M, counts)

    def _each(self, x_M: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
        """Rows in runs of `counts`, each run times its own matrix."""
        made_M = x_M.new_empty(len(x_M), weights.shape[2])
        for part, to, weight in zip(x_M.split(counts), made_M.split(counts), weights, strict=True):
            torch.mm(part, weight, out=to)
        return made_M

    def forward(self, x_TD: Tensor) -> tuple[SparseKept, Tensor]:
        """What is kept, and what is added."""
        routing = self._route(x_TD)
        both = self._each(x_TD[routing.rows_M], self.gate_up.transpose(1, 2), routing.counts)
        out_MD = self._each(self.kernels.swiglu(both), self.down.transpose(1, 2), routing.counts)
        weight_M = routing.weight_TC.detach().flatten()[routing.place_M]
        sum_TD = torch.zeros(x_TD.shape).index_add_(0, routing.rows_M, out_MD * weight_M[:, None])
        return SparseKept(routing, both, out_MD), sum_TD.to(x_TD.dtype)

    def back(self, kept: SparseKept, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None,
             ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """As in `MLPPass`."""
        r, counts = kept.routing, kept.routing.counts
        dout_MD, x_MD = dout_TD[r.rows_M], x_TD[r.rows_M]
        dweight_M = torch.linalg.vecdot(dout_MD.float(), kept.out_MD.float())
        weight_M = r.weight_TC.detach().flatten()[r.place_M]
        dout_MD = (dout_MD * weight_M[:, None]).to(x_TD.dtype)
        dboth, made_M = self.kernels.swiglu_back(self._each(dout_MD, self.down, counts), kept.both)
        found = {"experts.gate_up_proj": self._outer(dboth, x_MD, counts),
                 "experts.down_proj": self._outer(dout_MD, made_M, counts)}  # fmt: skip
        dx_MD = self._each(dboth, self.gate_up, counts)
        dweight_TC = torch.empty_like(r.weight_TC)
        dweight_TC.view(-1)[r.place_M] = dweight_M
        outputs, slopes = [r.weight_TC], [dweight_TC]
        if balance_E is not None:
            outputs, slopes = [*outputs, r.chance_TE], [*slopes, balance_E.expand_as(r.chance_TE)]
        (dlogits_TE,) = torch.autograd.grad(outputs, r.logits_TE, slopes)
        found["gate.weight"] = dlogits_TE.T @ x_TD
        dx_TD = (dlogits_TE @ self.gate_ED).float().index_add_(0, r.rows_M, dx_MD.float())
        return dx_TD.to(x_TD.dtype), found

    def _outer(self, dout_M: Tensor, x_M: Tensor, counts: list[int]) -> Tensor:
        parts = zip(dout_M.split(counts), x_M.split(counts), strict=True)
        return torch.stack([self.kernels.outer(dout, x) for dout, x in parts])


def together(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Matrices of the same inputs one above the other, in another type."""
    made = torch.empty(sum(map(len, weights)), weights[0].shape[1], dtype=dtype)
    for part, weight in zip(made.split([len(w) for w in weights]), weights, strict=True):
        part.copy_(weight.detach())
    return made

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


class GatedSlopes(NamedTuple):
    """Gradients by what went in (T, D), by gate above up (2I, D) and by down (D, I); the last two float32."""

    x_TD: Tensor
    gate_up: Tensor
    down: Tensor


class Weights(NamedTuple):
    """Of an MLP: gate and up (I, D), down (D, I), float32."""

    gate: Tensor
    up: Tensor
    down: Tensor


class Gated(Protocol):
    """One state of the weights of a gate, an up and a down projection."""

    def forward(self, x_TD: Tensor) -> tuple[Any, Tensor]:
        """What is kept, and what comes out."""
        ...

    def back(self, kept: Any, x_TD: Tensor, dout_TD: Tensor) -> GatedSlopes:
        """Only once."""
        ...


class InProducts:
    """By torch's products."""

    def __init__(self, weights: Weights, kernels: TrainingKernels, *, dtype: torch.dtype) -> None:
        """Takes working copies."""
        self.kernels, self.down = kernels, weights.down.to(dtype)
        self.gate_up = together((weights.gate, weights.up), dtype)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps gates and ups."""
        both = x_TD @ self.gate_up.T
        return both, self.kernels.swiglu(both) @ self.down.T

    def back(self, kept: Tensor, x_TD: Tensor, dout_TD: Tensor) -> GatedSlopes:
        """Only once."""
        dboth, made_TI = self.kernels.swiglu_back(dout_TD @ self.down, kept)
        return GatedSlopes(dboth @ self.gate_up, self.kernels.outer(dboth, x_TD), self.kernels.outer(dout_TD, made_TI))


class InTiles:
    """By tiles, bf16: SwiGLU is computed while the next product is."""

    def __init__(self, panels: Panels, kernels: TrainingKernels) -> None:
        self.panels, self.kernels = panels, kernels

    def forward(self, x_TD: Tensor) -> tuple[Tiles, Tensor]:
        """Keeps gates and ups."""
        return self.kernels.mlp(x_TD, self.panels)

    def back(self, kept: Tiles, x_TD: Tensor, dout_TD: Tensor) -> GatedSlopes:
        """Only once."""
        dx_TD, made_TI = self.kernels.mlp_back(dout_TD, kept, self.panels)
        return GatedSlopes(dx_TD, self.kernels.outer(kept, x_TD), self.kernels.outer(dout_TD, made_TI))


def gated(weights: Weights, kernels: TrainingKernels, *, dtype: torch.dtype) -> Gated:
    """In the fastest way there is for these widths."""
    panels = kernels.panels(*weights, dtype=dtype)
    return InProducts(weights, kernels, dtype=dtype) if panels is None else InTiles(panels, kernels)


class Dense:
    """One state of a dense MLP's weights."""

    def __init__(self, module: GatedMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> None:
        """Takes working copies."""
        projections = (module.gate_proj, module.up_proj, module.down_proj)
        self.inner = gated(Weights(*(p.weight.detach() for p in projections)), kernels, dtype=dtype)

    def forward(self, x_TD: Tensor) -> tuple[Any, Tensor]:
        """What is kept, and what is added."""
        return self.inner.forward(x_TD)

    def back(self, kept: Any, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None) -> tuple[Tensor, Gradients]:
        """As in `MLPPass`; there is nothing to balance."""
        assert balance_E is None
        found = self.inner.back(kept, x_TD, dout_TD)
        dgate, dup = found.gate_up.chunk(2)
        return found.x_TD, {"gate_proj.weight": dgate, "up_proj.weight": dup, "down_proj.weight": found.down}


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
    """What the backward pass of experts needs: of each expert what it kept; and what came out."""

    routing: Routing
    each: list[Any]
    out_MD: Tensor


class Sparse:
    """One state of the weights of a router and its experts."""

    def __init__(self, module: SparseMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> None:
        """Takes working copies."""
        self.chosen, self.normalise = module.chosen, module.normalise
        self.gate_ED = module.gate.weight.detach().to(dtype)
        pairs = zip(module.experts.gate_up_proj.detach(), module.experts.down_proj.detach(), strict=True)
        self.experts = [
            gated(Weights(both[: len(both) // 2], both[len(both) // 2 :], down), kernels, dtype=dtype)
            for both, down in pairs
        ]

    def _route(self, x_TD: Tensor) -> Routing:
        logits_TE = (x_TD @ self.gate_ED.T).requires_grad_()
        with torch.enable_grad():
            chance_TE, weight_TC, expert_TC = routed(logits_TE, chosen=self.chosen, normalise=self.normalise)
        place_M = expert_TC.flatten().argsort(stable=True)
        counts = torch.bincount(expert_TC.flatten(), minlength=len(self.gate_ED)).tolist()
        return Routing(logits_TE, chance_TE, weight_TC, place_M // self.chosen, place_M, counts)

    def forward(self, x_TD: Tensor) -> tuple[SparseKept, Tensor]:
        """What is kept, and what is added."""
        routing = self._route(x_TD)
        parts = x_TD[routing.rows_M].split(routing.counts)
        each, outs = zip(*(e.forward(x) for e, x in zip(self.experts, parts, strict=True)), strict=True)
        out_MD = torch.cat(outs)
        weight_M = routing.weight_TC.detach().flatten()[routing.place_M]
        sum_TD = torch.zeros(x_TD.shape).index_add_(0, routing.rows_M, out_MD * weight_M[:, None])
        return SparseKept(routing, list(each), out_MD), sum_TD.to(x_TD.dtype)

    def back(self, kept: SparseKept, x_TD: Tensor, dout_TD: Tensor, *, balance_E: Tensor | None,
             ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """As in `MLPPass`."""
        r = kept.routing
        dout_MD = dout_TD[r.rows_M]
        dweight_M = torch.linalg.vecdot(dout_MD.float(), kept.out_MD.float())
        weight_M = r.weight_TC.detach().flatten()[r.place_M]
        dout_MD = (dout_MD * weight_M[:, None]).to(x_TD.dtype)
        parts = zip(self.experts, kept.each, x_TD[r.rows_M].split(r.counts), dout_MD.split(r.counts), strict=True)
        each = [expert.back(some, x, dout) for expert, some, x, dout in parts]
        found = {"experts.gate_up_proj": torch.stack([slopes.gate_up for slopes in each]),
                 "experts.down_proj": torch.stack([slopes.down for slopes in each])}  # fmt: skip
        dweight_TC = torch.empty_like(r.weight_TC)
        dweight_TC.view(-1)[r.place_M] = dweight_M
        outputs, slopes = [r.weight_TC], [dweight_TC]
        if balance_E is not None:
            outputs, slopes = [*outputs, r.chance_TE], [*slopes, balance_E.expand_as(r.chance_TE)]
        (dlogits_TE,) = torch.autograd.grad(outputs, r.logits_TE, slopes)
        found["gate.weight"] = dlogits_TE.T @ x_TD
        dx_MD = torch.cat([slopes.x_TD for slopes in each])
        dx_TD = (dlogits_TE @ self.gate_ED).float().index_add_(0, r.rows_M, dx_MD.float())
        return dx_TD.to(x_TD.dtype), found


def mlp_pass(module: GatedMLP | SparseMLP, kernels: TrainingKernels, *, dtype: torch.dtype) -> MLPPass:
    """One state of an MLP's weights."""
    if isinstance(module, SparseMLP):
        return Sparse(module, kernels, dtype=dtype)
    return Dense(module, kernels, dtype=dtype)


def together(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Matrices of the same inputs one above the other, in another type."""
    made = torch.empty(sum(map(len, weights)), weights[0].shape[1], dtype=dtype)
    for part, weight in zip(made.split([len(w) for w in weights]), weights, strict=True):
        part.copy_(weight.detach())
    return made

"""Mixture of experts.   Axes: T tokens, D model, E experts, C chosen experts per token, I inner width of one expert."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Experts(nn.Module):
    """The experts' weights, fused as `transformers` 5 stores them: gate above up."""

    def __init__(self, *, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))


class Routed(NamedTuple):
    """Of some tokens: how many chose each expert (E,), int64, and the sum of their chances (E,), fp32."""

    counts_E: Tensor
    chances_E: Tensor


def routed(logits_TE: Tensor, *, chosen: int, normalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's chances (T, E), fp32; of its likeliest experts the weights (T, C), fp32, and the numbers (T, C)."""
    chance_TE = logits_TE.softmax(dim=-1, dtype=torch.float32)
    weight_TC, expert_TC = chance_TE.topk(chosen, dim=-1)
    if normalise:
        weight_TC = weight_TC / weight_TC.sum(dim=-1, keepdim=True)
    return chance_TE, weight_TC, expert_TC


@contextmanager
def watched(model: nn.Module) -> Generator[dict[int, Routed]]:
    """While a forward pass runs, fills a table: which expert layer, counted from 0 -> where its tokens went."""
    sparse, layers = [m for m in model.modules() if isinstance(m, SparseMLP)], dict[int, Routed]()

    def watch(layer: int, chance_TE: Tensor, expert_TC: Tensor) -> None:
        counts_E = torch.bincount(expert_TC.flatten(), minlength=chance_TE.shape[1])
        layers.setdefault(layer, Routed(counts_E, chance_TE.sum(0)))

    for layer, module in enumerate(sparse):
        module.watch = partial(watch, layer)
    try:
        yield layers
    finally:
        for module in sparse:
            module.watch = None


class SparseMLP(nn.Module):
    """Each token goes through its C likeliest experts. Router in fp32. Source: Qwen3 report, arXiv:2505.09388."""

    def __init__(self, *, width: int, inner: int, experts: int, chosen: int, normalise: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = Experts(experts=experts, width=width, inner=inner)
        self.chosen, self.normalise = chosen, normalise
        self.watch: Callable[[Tensor, Tensor], None] | None = None  # is told chances (T, E) and choices (T, C)
        self.packed: dict[str, nn.ModuleList] = {}  # gate_up_proj and down_proj per expert, where packed for inference

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (T, C) in x's dtype and expert numbers (T, C). normalise: the weights of a token sum to 1."""
        logits_TE = F.linear(x_TD, self.gate.weight.to(x_TD.dtype))
        chance_TE, weight_TC, expert_TC = routed(logits_TE, chosen=self.chosen, normalise=self.normalise)
        if self.watch is not None:
            self.watch(chance_TE, expert_TC)
        return weight_TC.to(x_TD.dtype), expert_TC

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D). Only the chosen experts' weights are read."""
        weight_TC, expert_TC = self.route(x_TD)
        out_TD = torch.zeros_like(x_TD)
        for expert in expert_TC.unique().tolist():
            rows, place = (expert_TC == expert).nonzero(as_tuple=True)
            gate, up = self._expert(expert, "gate_up_proj", x_TD[rows]).chunk(2, dim=-1)
            out = self._expert(expert, "down_proj", F.silu(gate) * up)
            out_TD.index_add_(0, rows, out * weight_TC[rows, place, None])
        return out_TD

    def _expert(self, expert: int, name: str, x: Tensor) -> Tensor:
        if self.packed:
            return self.packed[name][expert](x)
        return F.linear(x, getattr(self.experts, name)[expert].to(x.dtype))

"""Mixture of experts.   Axes: T tokens, D model, E experts, C chosen experts per token, I inner width of one expert."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Experts(nn.Module):
    """The experts' weights, fused as `transformers` 5 stores them: gate above up."""

    def __init__(self, *, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))


class SparseMLP(nn.Module):
    """Each token goes through its C likeliest experts. Router in fp32. Source: Qwen3 report, arXiv:2505.09388."""

    def __init__(self, *, width: int, inner: int, experts: int, chosen: int, normalise: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = Experts(experts=experts, width=width, inner=inner)
        self.chosen, self.normalise = chosen, normalise
        self.packed: dict[str, nn.ModuleList] = {}  # gate_up_proj and down_proj per expert, where packed for inference

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (T, C) in x's dtype and expert numbers (T, C). normalise: the weights of a token sum to 1."""
        chance_TE = F.linear(x_TD, self.gate.weight.to(x_TD.dtype)).softmax(dim=-1, dtype=torch.float32)
        weight_TC, expert_TC = chance_TE.topk(self.chosen, dim=-1)
        if self.normalise:
            weight_TC = weight_TC / weight_TC.sum(dim=-1, keepdim=True)
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

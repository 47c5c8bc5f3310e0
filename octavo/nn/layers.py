"""Layers that every decoder shares.   Axes: T tokens, D model, H query heads, G key/value heads, B queries and
keys, J all three, K head width, I inner width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn.context import Context
from octavo.nn.rotate import rotate
from octavo.nn.shapes import HeadShape


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in fp32. Source: arXiv:1910.07467; rounding order as in the official models."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width), any dtype, normed over the last axis."""
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x normed over its last axis, times weight, whose last axis is the same."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, x.shape[-1:], None, eps) * weight
    wide = x.float()
    size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # one pass, where `rms_norm` on a CPU takes several
    return (wide * (size.square() / x.shape[-1] + eps).rsqrt()).to(x.dtype) * weight


class Attention(nn.Module):
    """Causal self-attention of one layer. Where keys and values live is the context's business, not ours."""

    def __init__(self, s: HeadShape, *, layer: int) -> None:
        super().__init__()
        self.s, self.layer = s, layer
        self.q_proj = nn.Linear(s.width, s.heads * s.head_width, bias=s.qkv_bias)  # names = names in the checkpoint
        self.k_proj = nn.Linear(s.width, s.kv_heads * s.head_width, bias=s.qkv_bias)
        self.v_proj = nn.Linear(s.width, s.kv_heads * s.head_width, bias=s.qkv_bias)
        self.o_proj = nn.Linear(s.heads * s.head_width, s.width, bias=s.out_bias)
        self.q_norm = RMSNorm(s.head_width, s.eps) if s.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(s.head_width, s.eps) if s.qk_norm else nn.Identity()
        self.qkv: nn.Module | None = None  # the three projections as one, where weights are packed for inference

    def project(self, x_TD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (T, H, K), keys and values (T, G, K); queries and keys normed (Qwen3), then rotated."""
        if self.qkv is None:
            flat = (self.q_proj(x_TD), self.k_proj(x_TD), self.v_proj(x_TD))
            q_THK, k_TGK, v_TGK = (x.unflatten(-1, (-1, self.s.head_width)) for x in flat)
            q_THK, k_TGK = self.q_norm(q_THK), self.k_norm(k_TGK)
            return rotate(q_THK, cos_TK, sin_TK), rotate(k_TGK, cos_TK, sin_TK), v_TGK
        heads, groups = self.s.heads, self.s.kv_heads
        all_TJK = self.qkv(x_TD).unflatten(-1, (-1, self.s.head_width))
        both_TBK = all_TJK[:, : heads + groups]  # queries and keys go one way together: half the small operations
        if isinstance(self.q_norm, RMSNorm) and isinstance(self.k_norm, RMSNorm):
            q_HK, k_GK = self.q_norm.weight.expand(heads, -1), self.k_norm.weight.expand(groups, -1)
            both_TBK = rms_norm(both_TBK, torch.cat((q_HK, k_GK)), self.s.eps)
        both_TBK = rotate(both_TBK, cos_TK, sin_TK)
        return both_TBK[:, :heads], both_TBK[:, heads:], all_TJK[:, heads + groups :]

    def forward(self, x_TD: Tensor, cos_TK: Tensor, sin_TK: Tensor, ctx: Context) -> Tensor:
        """One layer of attention over the flat token axis; returns (T, D)."""
        q_THK, k_TGK, v_TGK = self.project(x_TD, cos_TK, sin_TK)
        o_THK = ctx.attend(self.layer, q_THK, k_TGK, v_TGK, scale=self.s.head_width**-0.5)
        return self.o_proj(o_THK.flatten(1))


class GatedMLP(nn.Module):
    """SwiGLU. Source: arXiv:2002.05202."""

    def __init__(self, width: int, inner: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.gate_up: nn.Module | None = None  # gate and up as one, where weights are packed for inference

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        if self.gate_up is None:
            gate_TI, up_TI = self.gate_proj(x_TD), self.up_proj(x_TD)
        else:
            gate_TI, up_TI = self.gate_up(x_TD).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_TI) * up_TI)

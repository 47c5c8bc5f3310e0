"""The decoder that all families share.   Axes: T tokens, D model, K head width, N rows of logits, V vocabulary."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from octavo.models.config import DecoderConfig
from octavo.nn.context import Context
from octavo.nn.layers import Attention, GatedMLP, RMSNorm
from octavo.nn.moe import SparseMLP
from octavo.nn.rotate import rotation


class Layer(nn.Module):
    """Attention and MLP, each normed before and added to the residual stream."""

    def __init__(self, c: DecoderConfig, *, layer: int) -> None:
        super().__init__()
        width, moe = c.heads.width, c.moe
        self.self_attn = Attention(c.heads, layer=layer)
        self.mlp: nn.Module
        if moe is None or layer in moe.dense_layers:
            self.mlp = GatedMLP(width, c.inner, bias=c.mlp_bias)
        else:
            self.mlp = SparseMLP(
                width=width, inner=moe.inner, experts=moe.experts, chosen=moe.chosen, normalise=moe.normalise
            )
        self.input_layernorm = RMSNorm(width, c.eps)
        self.post_attention_layernorm = RMSNorm(width, c.eps)

    def forward(self, x_TD: Tensor, cos_TK: Tensor, sin_TK: Tensor, ctx: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos_TK, sin_TK, ctx)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class Body(nn.Module):
    """Embedding, layers and last norm: `model.*` in the checkpoint."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.rope = c.rope
        self.embed_tokens = nn.Embedding(c.vocab_size, c.heads.width)
        self.layers = nn.ModuleList(Layer(c, layer=i) for i in range(c.layers))
        self.norm = RMSNorm(c.heads.width, c.eps)
        self.checkpoint = False  # keep only what goes into a layer, and compute the rest again on the way back

    def forward(self, tokens_T: Tensor, ctx: Context) -> Tensor:
        """Hidden states (T, D) after the last norm."""
        x_TD = self.embed_tokens(tokens_T).to(self.norm.weight.dtype)
        cos_TK, sin_TK = (x.to(x_TD.dtype) for x in rotation(self.rope, ctx.positions_T))
        for layer in self.layers:
            if self.checkpoint and torch.is_grad_enabled():
                x_TD = checkpoint(layer, x_TD, cos_TK, sin_TK, ctx, use_reentrant=False)
            else:
                x_TD = layer(x_TD, cos_TK, sin_TK, ctx)
        return self.norm(x_TD)


class Decoder(nn.Module):
    """A causal language model. Parameter names are the official checkpoint names; a tied head has no parameter."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head: nn.Module | None = None
        if not config.tied:
            self.lm_head = nn.Linear(config.heads.width, config.vocab_size, bias=False)

    def forward(self, tokens_T: Tensor, ctx: Context) -> Tensor:
        """Hidden states (T, D) of token ids (T,), int64."""
        return self.model(tokens_T, ctx)

    @property
    def head_weight(self) -> Tensor:
        """The head's weight (V, D): the embedding's own where the two are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight  # type: ignore[return-value]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) of chosen hidden states."""
        if self.lm_head is None:
            return F.linear(hidden_ND, self.model.embed_tokens.weight.to(hidden_ND.dtype))
        return self.lm_head(hidden_ND)


@torch.no_grad()
def count_parameters(model: nn.Module) -> int:
    """Numbers in the model; a tied head counts once. Works on the meta device."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def without_memory() -> Generator[None]:
    """Modules made inside have no memory for their parameters: they are on the meta device."""
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`: without memory there is nothing to fill, and its first use there costs a second."""

    def __torch_function__(self, *call: Any) -> Any:
        func, args, kwargs = call[0], call[2], call[3] if len(call) > 3 else {}  # torch calls it with 3 or 4
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

"""Scales moved from activations into weights; a model's function stays as it was.

A channel that is loud for most tokens makes the steps of an int8 token coarse for all other channels. Here channel k
of what a linear reads is divided by s_k where it is made, and column k of the linear is multiplied with it. s_k is the
root of the channel's root mean square, with every token brought to one size first: that evens out half of the
difference, and gives the columns that matter most the finer steps.

Axes: T tokens, K inputs, H query heads, G key/value heads, R = H/G, W head width.
Sources: SmoothQuant, arXiv:2211.10438; AWQ, arXiv:2306.00978.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from octavo.models.decoder import Layer
from octavo.nn.layers import GatedMLP
from octavo.nn.moe import SparseMLP
from octavo.weights.stream import Stream

QUIETEST = 1e-3  # of the mean loudness: a channel that was silent in the texts may speak later
SMALLEST = 1e-30


def balance(layer: Layer, shown: Stream) -> None:
    """Balance what a layer's linears read, in place: both norms' outputs, values, and the dense MLP's products."""
    attention, mlp = layer.self_attn, layer.mlp
    readers: list[nn.Module] = [attention.q_proj, attention.o_proj, mlp]
    if isinstance(mlp, GatedMLP):
        readers.append(mlp.down_proj)
    power_K = [loudness(shown.reaching(layer, module)) for module in readers]
    scale_K = scales(power_K[0])
    layer.input_layernorm.weight.div_(scale_K)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        linear.weight.mul_(scale_K)
    groups, width = attention.s.kv_heads, attention.s.head_width
    scale_GW = scales(power_K[1].view(groups, -1, width).mean(dim=1))  # heads of one group share their values
    _make_smaller(attention.v_proj, scale_GW.flatten())
    repeats = attention.s.heads // groups
    attention.o_proj.weight.mul_(scale_GW[:, None].expand(-1, repeats, -1).flatten())
    scale_K = scales(power_K[2])
    layer.post_attention_layernorm.weight.div_(scale_K)
    if isinstance(mlp, SparseMLP):
        mlp.gate.weight.mul_(scale_K)
        mlp.experts.gate_up_proj.mul_(scale_K)
    else:
        assert isinstance(mlp, GatedMLP)
        mlp.gate_proj.weight.mul_(scale_K)
        mlp.up_proj.weight.mul_(scale_K)
        scale_K = scales(power_K[3])
        _make_smaller(mlp.up_proj, scale_K)
        mlp.down_proj.weight.mul_(scale_K)


def _make_smaller(linear: nn.Linear, scale_N: Tensor) -> None:
    """Divide what a linear gives."""
    for parameter in linear.parameters():  # weight, and bias where there is one
        parameter.div_(scale_N.view(-1, *[1] * (parameter.ndim - 1)))


def loudness(shown: Iterable[Tensor]) -> Tensor:
    """The mean square of each channel (K,) over all tokens, each brought to one size. shown: (T, K) of each text."""
    parts = [x_TK.square() / x_TK.square().sum(dim=1, keepdim=True).clamp(min=SMALLEST) for x_TK in shown]
    return torch.cat(parts).mean(dim=0)


def scales(power: Tensor) -> Tensor:
    """What each channel is divided by: the fourth root of its mean square, of geometric mean 1."""
    loud = power.sqrt()
    root = loud.clamp(min=QUIETEST * float(loud.mean())).sqrt()
    return root / root.log().mean().exp()

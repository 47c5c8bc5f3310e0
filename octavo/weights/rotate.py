"""Rotations that leave a model's function as it was, and spread outliers over all channels.

Axes: D model, K head width, N outputs, H heads.   Source: QuaRot, arXiv:2404.00456 (R1 and R2; norms are folded first).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from octavo.models.decoder import Layer
from octavo.nn.layers import GatedMLP
from octavo.nn.moe import SparseMLP

LARGEST_CORE = 256  # order of the Hadamard matrix that is not a power of two


def rotation_of(width: int, *, seed: int) -> Tensor:
    """A random orthogonal matrix (width, width) in float64: Hadamard with random signs, where an order fits.

    An order fits that is a power of two, or one times an order by Paley (12, 20, 28, 36, 60 ...); else it is the Q of a
    random matrix.
    """
    chance = torch.Generator().manual_seed(seed)
    hadamard_DD = _hadamard(width)
    if hadamard_DD is None:
        gauss_DD = torch.randn(width, width, generator=chance, dtype=torch.float64)
        return torch.linalg.qr(gauss_DD).Q
    signs_D = torch.randint(0, 2, (width,), generator=chance).double() * 2 - 1
    return hadamard_DD * signs_D / math.sqrt(width)


def _hadamard(order: int) -> Tensor | None:
    """A matrix of 1 and -1 with orthogonal rows; None where neither Sylvester's nor Paley's construction has one."""
    core, doublings = order, 0
    while core % 2 == 0 and _paley(core) is None and core > 1:
        core, doublings = core // 2, doublings + 1
    found_DD = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
    if found_DD is None:
        return None
    pair = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
    for _ in range(doublings):
        found_DD = torch.kron(pair, found_DD)
    return found_DD


def _paley(order: int) -> Tensor | None:
    """Paley's first construction, of a prime q = order - 1, or his second, of a prime q = order / 2 - 1."""
    if order % 4 or not 12 <= order <= LARGEST_CORE:
        return None
    if _prime(order - 1):  # = 3 mod 4, so its residues are skew
        skew_DD = torch.zeros(order, order, dtype=torch.float64)
        skew_DD[0, 1:], skew_DD[1:, 0], skew_DD[1:, 1:] = 1, -1, _residues(order - 1)
        return skew_DD + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if half % 4 != 2 or not _prime(half - 1):
        return None
    even_DD = torch.zeros(half, half, dtype=torch.float64)
    even_DD[0, 1:], even_DD[1:, 0], even_DD[1:, 1:] = 1, 1, _residues(half - 1)
    plus, minus = torch.tensor([[[1, 1], [1, -1]], [[1, -1], [-1, -1]]], dtype=torch.float64)
    return torch.kron(even_DD, plus) + torch.kron(torch.eye(half, dtype=torch.float64), minus)


def _prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def _residues(prime: int) -> Tensor:
    """The matrix of (i - j / prime): 1 where i - j is a square modulo the prime, -1 where not, 0 on the diagonal."""
    squares = {i * i % prime for i in range(1, prime)}
    row = torch.tensor([0, *(1 if i in squares else -1 for i in range(1, prime))], dtype=torch.float64)
    index = torch.arange(prime)
    return row[(index[:, None] - index) % prime]


def turned(weight_ND: Tensor, stream_DD: Tensor, *, gain: Tensor | None = None) -> Tensor:
    """A weight that reads the turned stream (N, D), float32.   gain: the weight of the norm before it, folded in."""
    wide_ND = weight_ND.double() if gain is None else weight_ND.double() * gain.double()
    return (wide_ND @ stream_DD).float()


def rotate_layer(layer: Layer, stream_DD: Tensor, head_KK: Tensor) -> None:
    """Turn a layer in place for a residual stream x @ stream_DD; values, and what reads them, turn by head_KK.

    The norms' weights go into the linears that follow them and become 1. Norms of queries and keys stay.
    """
    attention, mlp = layer.self_attn, layer.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        linear.weight.copy_(turned(linear.weight, stream_DD, gain=layer.input_layernorm.weight))
    _turn_output(attention.o_proj, stream_DD)
    heads, groups, width = attention.s.heads, attention.s.kv_heads, attention.s.head_width
    for parameter in attention.v_proj.parameters():  # weight, and bias where there is one
        rows = parameter.double().unflatten(0, (groups, width))
        parameter.copy_(torch.einsum("gk...,kj->gj...", rows, head_KK).flatten(0, 1))
    columns_NHK = attention.o_proj.weight.double().unflatten(1, (heads, width))
    attention.o_proj.weight.copy_((columns_NHK @ head_KK).flatten(1))
    gain = layer.post_attention_layernorm.weight
    if isinstance(mlp, GatedMLP):
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.copy_(turned(linear.weight, stream_DD, gain=gain))
        _turn_output(mlp.down_proj, stream_DD)
    else:
        assert isinstance(mlp, SparseMLP)
        mlp.gate.weight.copy_(turned(mlp.gate.weight, stream_DD, gain=gain))
        for gate_up_ND, down_DN in zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True):
            gate_up_ND.copy_(turned(gate_up_ND, stream_DD, gain=gain))
            down_DN.copy_(stream_DD.T @ down_DN.double())
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        norm.weight.fill_(1)


def _turn_output(linear: nn.Linear, stream_DD: Tensor) -> None:
    """Turn a linear that adds to the stream, in place."""
    for parameter in linear.parameters():  # weight, and bias where there is one
        parameter.copy_(stream_DD.T @ parameter.double())

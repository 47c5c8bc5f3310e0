"""The head and what is learnt from it, in chunks: a whole tensor of logits (N, V) never exists.

Axes: N tokens to predict, D model, V vocabulary, C tokens of a chunk."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_NUMBERS = 1 << 24  # of a chunk's logits


class Told(NamedTuple):
    """What a model says of given tokens.   logprobs_N   nats;   entropy_N   nats, of the whole distribution"""

    logprobs_N: Tensor
    entropy_N: Tensor


@torch.no_grad()
def tell(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Told:
    """Log-probability of each target under its row, and the entropy there, float32. No gradient."""
    told = [
        (_pick(logits_CV, targets_C) - (size_C := logits_CV.logsumexp(-1)), _entropy(logits_CV, size_C))
        for logits_CV, targets_C in _chunks(hidden_ND, head_VD, targets_N)
    ]
    if not told:
        return Told(hidden_ND.new_zeros(0, dtype=torch.float32), hidden_ND.new_zeros(0, dtype=torch.float32))
    return Told(*(torch.cat(parts) for parts in zip(*told, strict=True)))


def _chunks(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Any:
    size = max(1, CHUNK_NUMBERS // len(head_VD))
    for hidden_CD, targets_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        if len(targets_C):
            yield F.linear(hidden_CD, head_VD.to(hidden_CD.dtype)).float(), targets_C


def _pick(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    return logits_CV.gather(1, targets_C[:, None]).squeeze(1)


def _entropy(logits_CV: Tensor, size_C: Tensor) -> Tensor:
    chance_CV = (logits_CV - size_C[:, None]).exp()
    return size_C - (chance_CV * logits_CV).sum(-1)


def weighted_surprise(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Sum of weights_N times -log p of each target, a scalar in nats; differentiable in hidden_ND and head_VD.

    The gradients are computed with the value, chunk by chunk, so that nothing is computed twice. A weight may be
    negative: that is how a policy gradient goes away from a token.
    """
    return _WeightedSurprise.apply(hidden_ND, head_VD, targets_N, weights_N)  # type: ignore[no-any-return]


class _WeightedSurprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        low_VD = head_VD.to(hidden_ND.dtype)
        grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD, dtype=torch.float32)
        total, size = hidden_ND.new_zeros((), dtype=torch.float32), max(1, CHUNK_NUMBERS // len(head_VD))
        for start in range(0, len(targets_N), size):
            part = slice(start, start + size)
            hidden_CD, targets_C, weights_C = hidden_ND[part], targets_N[part], weights_N[part].float()
            logits_CV = F.linear(hidden_CD, low_VD).float()
            size_C = logits_CV.logsumexp(-1)
            total += (weights_C * (size_C - _pick(logits_CV, targets_C))).sum()
            slope_CV = logits_CV.sub_(size_C[:, None]).exp_().mul_(weights_C[:, None])  # softmax less one-hot, weighted
            slope_CV.scatter_add_(1, targets_C[:, None], -weights_C[:, None])
            slope_CV = slope_CV.to(hidden_ND.dtype)
            torch.mm(slope_CV, low_VD, out=grad_ND[part])
            grad_VD += slope_CV.T @ hidden_CD
        ctx.save_for_backward(grad_ND, grad_VD.to(head_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * outputs[0], grad_VD * outputs[0], None, None

"""The head and what is learnt from it, in chunks: a whole tensor of logits (N, V) never exists.

Axes: N tokens to predict, D model, V vocabulary, C tokens of a chunk."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.nn.kernels.training import TrainingKernels

CHUNK_BYTES, CHUNK_ROWS = 1 << 27, 2048  # of a chunk's logits, at most


class Told(NamedTuple):
    """What a model says of given tokens.   logprobs_N   nats;   entropy_N   nats, of the whole distribution"""

    logprobs_N: Tensor
    entropy_N: Tensor


@torch.no_grad()
def tell(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, *, kernels: TrainingKernels | None = None) -> Told:
    """Log-probability of each target under its row, and the entropy there, float32. No gradient."""
    logprobs_N, entropy_N = (torch.empty(len(targets_N), device=hidden_ND.device) for _ in range(2))
    low_VD = head_VD.to(hidden_ND.dtype)
    for part in chunks(hidden_ND, head_VD):
        logits_CV = F.linear(hidden_ND[part], low_VD)
        if kernels is not None:
            logprobs_C, entropy_C = kernels.surprise(logits_CV, targets_N[part], entropy=True)
            assert entropy_C is not None
        else:
            logits_CV = logits_CV.float()
            size_C = logits_CV.logsumexp(-1)
            logprobs_C = _pick(logits_CV, targets_N[part]) - size_C
            entropy_C = size_C - ((logits_CV - size_C[:, None]).exp() * logits_CV).sum(-1)
        logprobs_N[part], entropy_N[part] = logprobs_C, entropy_C
    return Told(logprobs_N, entropy_N)


def chunks(hidden_ND: Tensor, head_VD: Tensor) -> Iterator[slice]:
    """Rows whose logits together are few enough to be held."""
    size = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (len(head_VD) * hidden_ND.element_size())))
    return (slice(start, start + size) for start in range(0, len(hidden_ND), size))


def _pick(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    return logits_CV.gather(1, targets_C[:, None]).squeeze(1)


class Slopes(NamedTuple):
    """total   nats, a scalar;   hidden_ND, head_VD   its gradients, in the type of the hidden states and in float32"""

    total: Tensor
    hidden_ND: Tensor
    head_VD: Tensor


@torch.no_grad()
def surprise_and_slopes(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *,
                        kernels: TrainingKernels | None = None) -> Slopes:  # fmt: skip
    """Sum of weights_N times -log p of each target, and its gradients, chunk by chunk: nothing is computed twice."""
    low_VD, weights_N = head_VD.to(hidden_ND.dtype), weights_N.float()
    grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD, dtype=torch.float32)
    total = hidden_ND.new_zeros((), dtype=torch.float32)
    for part in chunks(hidden_ND, head_VD):
        hidden_CD, targets_C, weights_C = hidden_ND[part], targets_N[part], weights_N[part]
        slope_CV = F.linear(hidden_CD, low_VD)
        if kernels is not None:
            logprobs_C, _ = kernels.surprise(slope_CV, targets_C, weights_C)
        else:
            slope_CV = slope_CV.float()
            size_C = slope_CV.logsumexp(-1)
            logprobs_C = _pick(slope_CV, targets_C) - size_C
            slope_CV.sub_(size_C[:, None]).exp_().mul_(weights_C[:, None])  # softmax less one-hot, weighted
            slope_CV.scatter_add_(1, targets_C[:, None], -weights_C[:, None])
            slope_CV = slope_CV.to(hidden_ND.dtype)
        total -= weights_C @ logprobs_C
        torch.mm(slope_CV, low_VD, out=grad_ND[part])
        grad_VD += slope_CV.T @ hidden_CD if kernels is None else kernels.outer(slope_CV, hidden_CD)
    return Slopes(total, grad_ND, grad_VD)


def weighted_surprise(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Sum of weights_N times -log p of each target, a scalar in nats; differentiable in hidden_ND and head_VD.

    A weight may be negative: that is how a policy gradient goes away from a token.
    """
    return _WeightedSurprise.apply(hidden_ND, head_VD, targets_N, weights_N)  # type: ignore[no-any-return]


class _WeightedSurprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        slopes = surprise_and_slopes(hidden_ND, head_VD, targets_N, weights_N)
        ctx.save_for_backward(slopes.hidden_ND, slopes.head_VD.to(head_VD.dtype))
        return slopes.total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * outputs[0], grad_VD * outputs[0], None, None

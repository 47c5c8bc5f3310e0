"""How far a model is from its teacher over the whole vocabulary, in chunks: no tensor of (N, V) ever exists whole.

Axes: N tokens to predict, D model, E width of the teacher, V vocabulary, C tokens of a chunk."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.nn.head import Slopes, chunks
from octavo.nn.kernels.training import TrainingKernels


class Teacher(NamedTuple):
    """What a teacher says: hidden states of the same tokens, and its head. Both models have one vocabulary."""

    hidden_NE: Tensor
    head_VE: Tensor


@torch.no_grad()
def divergence_and_slopes(hidden_ND: Tensor, head_VD: Tensor, teacher: Teacher, weights_N: Tensor, *,
                          reverse: bool = True, kernels: TrainingKernels | None = None) -> Slopes:  # fmt: skip
    """Sum of weights_N times KL(model || teacher) of each row (reverse) or KL(teacher || model), and its gradients.

    kernels   for hidden states of both in one type, on a CPU
    """
    low_VD, low_VE = head_VD.to(hidden_ND.dtype), teacher.head_VE.to(teacher.hidden_NE.dtype)
    weights_N = weights_N.float()
    grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD, dtype=torch.float32)
    total = hidden_ND.new_zeros((), dtype=torch.float32)
    for part in chunks(hidden_ND, head_VD):
        hidden_CD, weights_C = hidden_ND[part], weights_N[part]
        slope_CV, theirs_CV = F.linear(hidden_CD, low_VD), F.linear(teacher.hidden_NE[part], low_VE)
        if kernels is None:
            far_C, slope_CV = _plainly(slope_CV, theirs_CV, weights_C, reverse=reverse)
        else:
            far_C = kernels.divergence(slope_CV, theirs_CV, weights_C, reverse=reverse)
        total += weights_C @ far_C
        torch.mm(slope_CV, low_VD, out=grad_ND[part])
        grad_VD += slope_CV.T @ hidden_CD if kernels is None else kernels.outer(slope_CV, hidden_CD)
    return Slopes(total, grad_ND, grad_VD)


def _plainly(ours_CV: Tensor, theirs_CV: Tensor, weights_C: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Divergences and the gradient by our logits.

    Of rows p (model) and q (teacher) and logits z: d KL(p||q) / dz = p (log p - log q - KL); d KL(q||p) / dz = p - q.
    """
    our_CV, their_CV = (z_CV.float() - z_CV.float().logsumexp(-1, keepdim=True) for z_CV in (ours_CV, theirs_CV))
    chance_CV, true_CV, apart_CV = our_CV.exp(), their_CV.exp(), our_CV - their_CV
    far_C = ((chance_CV if reverse else -true_CV) * apart_CV).sum(-1)
    slope_CV = chance_CV * (apart_CV - far_C[:, None]) if reverse else chance_CV - true_CV
    return far_C, (slope_CV * weights_C[:, None]).to(ours_CV.dtype)


def weighted_divergence(hidden_ND: Tensor, head_VD: Tensor, teacher: Teacher, weights_N: Tensor, *,
                        reverse: bool = True) -> Tensor:  # fmt: skip
    """The sum of `divergence_and_slopes`, differentiable in hidden_ND and head_VD; the teacher learns nothing."""
    return _WeightedDivergence.apply(hidden_ND, head_VD, teacher, weights_N, reverse)  # type: ignore[no-any-return]


class _WeightedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, teacher: Teacher, weights_N: Tensor, reverse: bool
    ) -> Tensor:
        slopes = divergence_and_slopes(hidden_ND, head_VD, teacher, weights_N, reverse=reverse)
        ctx.save_for_backward(slopes.hidden_ND, slopes.head_VD.to(head_VD.dtype))
        return slopes.total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * outputs[0], grad_VD * outputs[0], None, None, None

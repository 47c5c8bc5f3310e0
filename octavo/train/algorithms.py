"""How to learn from what was sampled. An algorithm is one function from a batch to a push and a pull for each token.

r = exp(new - old) is how much likelier a token has become since it was sampled, A its advantage, w its weight. All sums
are divided by `scale`, the sum of all weights of the step: weights of 1 count each token the same; weights of
1 / (tokens of the reply) count each reply the same.   Axis: N tokens to predict.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.nn.head import Told
from octavo.train.batch import Batch
from octavo.train.step import Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedPolicy:
    """Policy gradients whose ratio is clipped: GRPO, DAPO, GSPO.

        loss = - sum of w min(r A, clip(r, 1 - low, 1 + high) A) / scale      so      push = w r A, or 0 where clipped

    by_reply   r is one for a whole reply, the geometric mean over its tokens (GSPO), which takes far smaller bounds
    drift      added weight of KL(new || old's model) as GRPO estimates it: exp(old - new) - (old - new) - 1
    Source: PPO, arXiv:1707.06347; GRPO, arXiv:2402.03300; DAPO (uneven bounds), arXiv:2503.14476; GSPO,
    arXiv:2507.18071.
    """

    low: float = 0.2
    high: float = 0.28
    by_reply: bool = False
    drift: float = 0.0
    needs_told: bool = True

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """Figures, means by weight: clipped (share, 0..1), ratio, entropy (nats), gap (|new - old|, nats)."""
        assert told is not None
        new_N, weights_N, advantages_N = told.logprobs_N, batch.weights_N, batch.advantages_N
        away_N = new_N - batch.logprobs_N
        if self.by_reply:
            away_N = _mean_of_reply(away_N, batch)
        ratio_N = away_N.exp()
        outside_N = torch.where(advantages_N > 0, ratio_N > 1 + self.high, ratio_N < 1 - self.low)
        gain_N = torch.minimum(ratio_N * advantages_N, ratio_N.clamp(1 - self.low, 1 + self.high) * advantages_N)
        push_N = torch.where(outside_N, 0.0, ratio_N * advantages_N)
        loss = -(weights_N @ gain_N)
        if self.drift:
            back_N = (batch.logprobs_N - new_N).exp()
            loss = loss + self.drift * (weights_N @ (back_N - 1 - (batch.logprobs_N - new_N)))
            push_N = push_N - self.drift * (1 - back_N)
        count = float(weights_N.sum())
        figures = {
            "clipped": (float(weights_N @ outside_N.float()), count), "ratio": (float(weights_N @ ratio_N), count),
            "entropy": (float(weights_N @ told.entropy_N), count),
            "gap": (float(weights_N @ (new_N - batch.logprobs_N).abs()), count),
        }  # fmt: skip
        return Terms(push_N=weights_N * push_N / scale, loss=loss / scale, figures=figures)


def _mean_of_reply(values_N: Tensor, batch: Batch) -> Tensor:
    """The mean over each sample's targets, at each of them."""
    size = batch.samples
    sums_B = values_N.new_zeros(size).index_add_(0, batch.samples_N, values_N)
    counts_B = values_N.new_zeros(size).index_add_(0, batch.samples_N, torch.ones_like(values_N)).clamp(min=1)
    return (sums_B / counts_B)[batch.samples_N]


@dataclass(frozen=True, kw_only=True, slots=True)
class TowardsTeacher:
    """On-policy distillation: the full-vocabulary KL(model || teacher) on what the model itself has sampled.

        loss = sum of w KL(p || q) / scale      so      pull = w / scale

    reverse   False: KL(q || p) instead, whose slopes are p - q, never larger than 1, where those of KL(p || q) are as
              large as a token is unlikely to the teacher
    Source: MiniLLM, arXiv:2306.08543; GKD, arXiv:2306.13649; Qwen3 report, arXiv:2505.09388, section 4.5.
    """

    reverse: bool = True
    needs_told: bool = False

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """Nothing is pushed."""
        del told
        pull_N = batch.weights_N / scale
        return Terms(push_N=torch.zeros_like(pull_N), pull_N=pull_N, reverse=self.reverse)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """DPO: of each pair of neighbouring samples, the first is preferred to the second.

        d = (new - old) summed over the first, less that of the second;   loss = - log sigmoid(beta d) / pairs
        push = +- beta sigmoid(- beta d) / pairs

    pairs   of the whole step, over all its batches
    The samples' logprobs are the reference model's; their order in a batch is kept. Source: DPO, arXiv:2305.18290.
    """

    pairs: int
    beta: float = 0.1
    needs_told: bool = True

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """Figures: right (share of pairs whose first is now likelier than it was, compared with the second)."""
        assert told is not None
        size = batch.samples
        assert size % 2 == 0, "preferences come in pairs"
        away_N = (told.logprobs_N - batch.logprobs_N) * batch.weights_N
        sums_B = away_N.new_zeros(size).index_add_(0, batch.samples_N, away_N)
        margin_P = self.beta * (sums_B[0::2] - sums_B[1::2])
        slope_P = self.beta * torch.sigmoid(-margin_P)
        push_B = torch.stack((slope_P, -slope_P), dim=1).flatten()
        del scale  # it counts tokens; here pairs count
        figures = {"right": (float((margin_P > 0).sum()), float(len(margin_P)))}
        loss = F.softplus(-margin_P).sum() / self.pairs
        return Terms(push_N=batch.weights_N * push_B[batch.samples_N] / self.pairs, loss=loss, figures=figures)

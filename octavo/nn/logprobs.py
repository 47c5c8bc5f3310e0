"""How likely a model finds a token, and how far two models are apart. In nats.   Axes: T tokens, V vocabulary."""

from torch import Tensor
from torch.nn import functional as F


def surprise(logits_TV: Tensor, tokens_T: Tensor) -> Tensor:
    """-log p of each token (T,) under its row of logits, float32. Its mean's exponential is the perplexity."""
    return F.cross_entropy(logits_TV.float(), tokens_T, reduction="none")


def divergence(true_TV: Tensor, other_TV: Tensor) -> Tensor:
    """KL(true || other) of each row (T,), float32, not negative: what coding with the other costs."""
    true_TV, other_TV = (x.float().log_softmax(dim=-1) for x in (true_TV, other_TV))
    return (true_TV.exp() * (true_TV - other_TV)).sum(dim=-1).clamp(min=0)

"""What a token costs a decoder: weights read and multiplied, numbers kept of it."""

from typing import NamedTuple

from octavo.models.config import DecoderConfig


class Cost(NamedTuple):
    """Of one token of one sequence alone.

    linears   weights of all layers' matrices that it is multiplied with; of experts, the chosen ones and the router
    head      weights of the output head, for a token whose successor is wanted
    cache     numbers that stay in the cache of keys and values
    """

    linears: int
    head: int
    cache: int

    def step_bytes(self, *, weight_bytes: float, number_bytes: float, batch: int, context: int) -> float:
        """Bytes that a step of `batch` replies of `context` tokens reads: the weights once, each reply's cache."""
        return (self.linears + self.head) * weight_bytes + batch * context * self.cache * number_bytes


def cost(config: DecoderConfig) -> Cost:
    """Norms and the embedding's row are left out: less than one in a thousand."""
    h = config.heads
    attention = 2 * h.width * h.head_width * (h.heads + h.kv_heads)
    dense = 3 * h.width * config.inner
    sparse_layers, sparse = 0, 0
    if (moe := config.moe) is not None:
        sparse_layers = config.layers - len(moe.dense_layers)
        sparse = h.width * (3 * moe.chosen * moe.inner + moe.experts)
    linears = config.layers * attention + (config.layers - sparse_layers) * dense + sparse_layers * sparse
    return Cost(linears, config.vocab_size * h.width, 2 * config.layers * h.kv_heads * h.head_width)

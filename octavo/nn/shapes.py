"""Shapes of layers, in plain data: what every backend reads.   Axes: D model, H query heads, G key/value heads, K head
width."""

from dataclasses import dataclass

from octavo.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """Head geometry of one attention layer. Source: GQA, Ainslie et al. 2023, arXiv:2305.13245."""

    width: int  # D
    heads: int  # H
    kv_heads: int  # G; must divide H
    head_width: int  # K; Qwen3 keeps 128 at every size, so H*K may differ from D
    eps: float = 1e-6  # of the query and key norms
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a geometry that cannot be."""
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: "
                f"each key/value head serves a whole number of query heads."
            )
        if self.head_width % 2:
            raise ConfigError(f"head_width={self.head_width} is odd: rotary positions turn pairs of channels.")

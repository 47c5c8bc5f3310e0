"""What a decoder's parameters are called and how large they are, without building it."""

from collections.abc import Iterator

from octavo.models.config import DecoderConfig, MoEShape

Shape = tuple[int, ...]


def parameter_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Official checkpoint name -> shape, in the order of `Decoder.named_parameters`; a tied head has none."""
    width = config.heads.width
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, width)}
    for layer in range(config.layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer(config, layer)}
    shapes["model.norm.weight"] = (width,)
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes


def _layer(c: DecoderConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    s, width = c.heads, c.heads.width
    for name, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
        yield from _linear(f"self_attn.{name}_proj", heads * s.head_width, width, bias=s.qkv_bias)
    yield from _linear("self_attn.o_proj", width, s.heads * s.head_width, bias=s.out_bias)
    if s.qk_norm:
        yield "self_attn.q_norm.weight", (s.head_width,)
        yield "self_attn.k_norm.weight", (s.head_width,)
    if c.moe is None or layer in c.moe.dense_layers:
        yield from _linear("mlp.gate_proj", c.inner, width, bias=c.mlp_bias)
        yield from _linear("mlp.up_proj", c.inner, width, bias=c.mlp_bias)
        yield from _linear("mlp.down_proj", width, c.inner, bias=c.mlp_bias)
    else:
        yield from _experts(c.moe, width)
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)


def _experts(moe: MoEShape, width: int) -> Iterator[tuple[str, Shape]]:
    yield "mlp.gate.weight", (moe.experts, width)
    yield "mlp.experts.gate_up_proj", (moe.experts, 2 * moe.inner, width)
    yield "mlp.experts.down_proj", (moe.experts, width, moe.inner)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)

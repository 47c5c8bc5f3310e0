"""config.json -> what the decoder is built from. Strict: a field that is not understood is an error, not a guess."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from octavo.core.errors import ConfigError
from octavo.nn.rope import Rope
from octavo.nn.shapes import HeadShape

T = TypeVar("T", int, float, bool, str)

# Fields that say nothing about the arithmetic of a forward pass here: metadata, training, generation and library notes.
# fmt: off
HARMLESS = frozenset({
    "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "id2label", "initializer_range",
    "is_decoder", "is_encoder_decoder", "label2id", "max_window_layers",
    "model_type", "num_labels", "output_attentions", "output_hidden_states",
    "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type",
    "return_dict", "router_aux_loss_coef", "sliding_window", "tokenizer_class",
    "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_cache", "attention_dropout", "is_llama_config", "transformers.js_config",
})
# fmt: on


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEShape:
    """Experts of a sparse layer. normalise: a token's expert weights are made to sum to 1."""

    experts: int
    chosen: int
    inner: int
    normalise: bool
    dense_layers: frozenset[int] = frozenset()  # layers that keep an ordinary MLP


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """A decoder-only transformer of the Llama kind: all that its arithmetic depends on."""

    vocab_size: int
    layers: int
    inner: int  # of the dense MLP
    heads: HeadShape
    rope: Rope
    eps: float
    tied: bool  # the output head is the embedding
    context_tokens: int
    mlp_bias: bool = False
    moe: MoEShape | None = None


class Fields:
    """Reads a config.json field by field; what `finish` finds unread and does not know is refused."""

    def __init__(self, values: Mapping[str, Any], *, family: str) -> None:
        self.values, self.family, self.read = values, family, set[str]()

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        """The field as `kind` (an int is taken where a float is wanted). Raises ConfigError: missing or wrong type."""
        self.read.add(name)
        value: Any = self.values.get(name)
        if value is None:
            if default is None:
                raise ConfigError(f"config.json of {self.family} has no {name}: download the model again.")
            return default
        number = type(value) in (int, float)
        if number and not 0 <= value < 1 << 40:
            raise ConfigError(f"config.json: {name}={value!r:.80} was found, {self.family} needs 0 to 2**40 there.")
        if kind is float and number:
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(f"config.json: {name}={value!r:.80} was found, {self.family} needs a {kind.__name__}.")
        return value

    def positive(self, name: str, default: int | None = None, *, most: int = 1 << 24) -> int:
        """An integer from 1 to `most`: far above every real model, far below what would eat the machine."""
        value = self.take(name, int, default)
        if not 1 <= value <= most:
            raise ConfigError(f"config.json: {name}={value} was found, {self.family} needs 1 to {most:,}.")
        return value

    def must(self, name: str, *allowed: Any) -> None:
        """Refuse a field that asks for something we do not do."""
        self.read.add(name)
        if name in self.values and self.values[name] not in allowed:
            raise ConfigError(
                f"config.json: {name}={self.values[name]!r:.80} is not supported for {self.family}: "
                f"only {' or '.join(map(repr, allowed))} is."
            )

    def finish(self) -> None:
        """Refuse fields nobody read, unless they are known to be harmless or switched off."""
        left = {
            name: value
            for name, value in self.values.items()
            if name not in self.read and name not in HARMLESS and not name.startswith("_") and value
        }
        if left:
            raise ConfigError(
                f"config.json of {self.family} has fields that Octavo does not understand: "
                f"{', '.join(f'{k}={v!r}'[:80] for k, v in sorted(left.items())[:8])}. Loading it anyway could give "
                f"wrong answers. If they change nothing in the forward pass, remove them from the file."
            )


def read_rope(fields: Fields, *, width: int, context_tokens: int) -> Rope:
    """RoPE in both dialects: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before)."""
    fields.read |= {"rope_parameters", "rope_scaling", "rope_theta"}
    merged: dict[str, Any] = {"rope_theta": fields.values.get("rope_theta", 10_000.0)}
    for name in ("rope_scaling", "rope_parameters"):
        value = fields.values.get(name) or {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"config.json: {name}={value!r:.80} was found, an object was needed.")
        merged |= {str(key): item for key, item in value.items() if item is not None}
    rope = Fields(merged, family=f"{fields.family} (rope)")
    rope.read |= {"type", "rope_type"}
    kind = merged.get("rope_type", merged.get("type", "default"))
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise ConfigError(f"config.json: rope type {kind!r:.80} is not supported: default, linear, llama3, yarn are.")
    rope.must("partial_rotary_factor", 1.0)
    theta = rope.take("rope_theta", float)
    if theta <= 1:
        raise ConfigError(f"config.json: rope_theta={theta} was found, it must be above 1.")
    if kind == "default":
        rope.read |= {"original_max_position_embeddings", "factor"}  # some files keep them beside type default
        scaled: dict[str, Any] = {}
    elif kind == "linear":
        scaled = {"factor": rope.take("factor", float)}
    elif kind == "llama3":
        scaled = {
            "factor": rope.take("factor", float),
            "low": rope.take("low_freq_factor", float),
            "high": rope.take("high_freq_factor", float),
            "original": rope.positive("original_max_position_embeddings"),
        }
    else:
        rope.must("mscale", None)
        rope.must("mscale_all_dim", None)
        original = rope.positive("original_max_position_embeddings", context_tokens)
        scaled = {
            "factor": rope.take("factor", float, context_tokens / original),
            "low": rope.take("beta_slow", float, 1.0) or 1.0,  # 0: not given, as `transformers` has it
            "high": rope.take("beta_fast", float, 32.0) or 32.0,
            "original": original,
            "attention": rope.take("attention_factor", float) if "attention_factor" in merged else None,
            "truncate": rope.take("truncate", bool, True),
        }
    if scaled.get("factor", 1.0) <= 0 or scaled.get("high", 2.0) <= scaled.get("low", 1.0):
        raise ConfigError(
            f"config.json: rope scaling {merged!r:.200} cannot be: factor must be above 0, and the bands in order: "
            f"high_freq_factor above low_freq_factor (llama3), beta_fast above beta_slow (yarn). Take the values of "
            f"the official config.json."
        )
    rope.finish()
    return Rope(width=width, theta=theta, kind=kind, **scaled)


def read_decoder(
    values: Mapping[str, Any],
    *,
    family: str,
    qkv_bias: bool | None = None,
    qk_norm: bool = False,
    moe: bool = False,
) -> DecoderConfig:
    """What the families share. qkv_bias None: the file says (attention_bias, then on the output projection too)."""
    f = Fields(values, family=family)
    f.must("hidden_act", "silu")
    f.must("use_sliding_window", False, None)
    f.must("quantization_config", None)
    f.must("is_causal", True, None)
    f.must("rope_interleaved", False, None)
    if qk_norm:
        f.must("use_qk_norm", True, None)
    f.read.add("layer_types")
    kinds: Any = values.get("layer_types") or ["full_attention"]
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise ConfigError(f"config.json: layer_types other than full_attention are not supported for {family}.")
    width, heads = f.positive("hidden_size"), f.positive("num_attention_heads")
    head_width = f.positive("head_dim", width // heads or None)
    file_bias = f.take("attention_bias", bool, False)
    eps, context = f.take("rms_norm_eps", float, 1e-6), f.positive("max_position_embeddings")
    shape = HeadShape(
        width=width, heads=heads, kv_heads=f.positive("num_key_value_heads", heads), head_width=head_width, eps=eps,
        qkv_bias=file_bias if qkv_bias is None else qkv_bias, out_bias=file_bias if qkv_bias is None else False,
        qk_norm=qk_norm,
    )  # fmt: skip
    layers = f.positive("num_hidden_layers", most=1024)
    config = DecoderConfig(
        vocab_size=f.positive("vocab_size"), layers=layers, inner=f.positive("intermediate_size"), heads=shape,
        rope=read_rope(f, width=head_width, context_tokens=context), eps=eps,
        tied=f.take("tie_word_embeddings", bool, False), context_tokens=context,
        mlp_bias=f.take("mlp_bias", bool, False), moe=_read_moe(f, layers) if moe else None,
    )  # fmt: skip
    f.finish()
    return config


def _read_moe(f: Fields, layers: int) -> MoEShape:
    experts = "num_experts" if f.values.get("num_experts") is not None else "num_local_experts"
    step, dense = f.positive("decoder_sparse_step", 1), f.values.get("mlp_only_layers") or []
    f.read.add("mlp_only_layers")
    if not isinstance(dense, list):
        raise ConfigError(f"config.json: mlp_only_layers={dense!r:.80} was found, a list of layers was needed.")
    shape = MoEShape(
        experts=f.positive(experts, most=65_536),
        chosen=f.positive("num_experts_per_tok"),
        inner=f.positive("moe_intermediate_size"),
        normalise=f.take("norm_topk_prob", bool, False),
        dense_layers=frozenset(i for i in range(layers) if i in dense or (i + 1) % step),
    )
    if shape.chosen > shape.experts:
        raise ConfigError(f"config.json: {shape.chosen} experts per token of only {shape.experts}.")
    return shape

"""GGUF metadata -> the config.json of the official checkpoint. Strict: an unknown key of the model is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ConfigError
from octavo.nn.rope import Rope

# `general.architecture` -> `model_type`
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}

# key after "<architecture>." -> field of config.json
FIELDS = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}  # fmt: skip
MOE_FIELDS = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
YARN = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow",
}  # fmt: skip
# Read here, or without a say in the arithmetic.
KNOWN = {
    "vocab_size", "attention.value_length", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scale_linear", "rope.scaling.finetuned", "tensor_data_layout",
}  # fmt: skip
NEUTRAL = {"expert_weights_norm": True, "expert_weights_scale": 1.0, "expert_gating_func": 1, "attention.causal": True,
           "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0,
           "rope.scaling.yarn_ext_factor": 1.0}  # fmt: skip
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read_config(fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """config.json of a GGUF file, but for `rope_freqs.weight` (see `banded_scaling`).

    fields   metadata;   shapes   of the file's tensors, by their names in it
    Raises ConfigError for an architecture or a key that is not understood.
    """
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in MODEL_TYPES:
        raise ConfigError(f"GGUF: general.architecture is {str(architecture)[:40]!r}, Octavo reads "
                          f"{', '.join(MODEL_TYPES)}. Choose a model of one of these.")  # fmt: skip
    own = {key.removeprefix(f"{architecture}."): v for key, v in fields.items() if key.startswith(f"{architecture}.")}
    names = FIELDS | (MOE_FIELDS if architecture == "qwen3moe" else {})
    _refuse_unknown(own, known=KNOWN | names.keys() | YARN.keys(), architecture=architecture)
    config: dict[str, Any] = {"model_type": MODEL_TYPES[architecture], "hidden_act": "silu"}
    config |= {field: own[key] for key, field in names.items() if key in own}
    width = own.get("attention.key_length", own.get("rope.dimension_count"))
    for key in ("rope.dimension_count", "attention.value_length"):
        if key in own and own[key] != width:
            raise ConfigError(
                f"GGUF: {architecture}.{key} is {own[key]!r:.40} where heads have {width!r:.40} channels: Octavo needs "
                f"keys, values and rotation equally wide. Choose another model."
            )
    if width is not None:
        config["head_dim"] = width
    if "token_embd.weight" in shapes:
        config["vocab_size"] = shapes["token_embd.weight"][0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    if architecture == "qwen3moe":
        config["norm_topk_prob"] = True  # the architecture's rule in llama.cpp; the file does not say it
        config.setdefault("intermediate_size", config.get("moe_intermediate_size"))
    if architecture != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if architecture == "llama":
        config["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    for key, field in {"bos": "bos_token_id", "eos": "eos_token_id"}.items():
        config[field] = fields.get(f"tokenizer.ggml.{key}_token_id")
    scaling = _scaling(own)
    return config | ({"rope_scaling": scaling} if scaling else {})


def _refuse_unknown(own: Mapping[str, Any], *, known: set[str], architecture: str) -> None:
    left = [
        f"{architecture}.{key[:80]}={str(value)[:40]}"
        for key, value in sorted(own.items())
        if key not in known and not _neutral(key, value)
    ]
    if left:
        raise ConfigError(
            f"GGUF: {', '.join(left[:5])} is not understood. Loading the file anyway could give wrong answers: choose "
            f"another file of the model, or its safetensors."
        )


def _neutral(key: str, value: Any) -> bool:
    """Whether a key asks for nothing. 0.0 as a scale is llama.cpp's "not given"."""
    if key not in NEUTRAL:
        return not value
    return value == NEUTRAL[key] or (value == 0 and isinstance(NEUTRAL[key], float))


def _scaling(own: Mapping[str, Any]) -> dict[str, Any]:
    """As llama.cpp reads it: linear where no type is given, by 1 where no factor is or 0; "none" has no use for one."""
    kind = own.get("rope.scaling.type", "linear")
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear")) or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind not in ("linear", "yarn") or not isinstance(factor, float):
        raise ConfigError(f"GGUF: rope scaling {str(kind)[:40]!r} by {factor!r:.40} is not linear or yarn.")
    extra = {field: own[key] for key, field in YARN.items() if key in own} if kind == "yarn" else {}
    return {"rope_type": kind, "factor": factor, **extra}


def banded_scaling(factors_F: NDArray[np.float32], *, width: int, theta: float) -> dict[str, Any]:
    """The llama3 scaling behind `rope_freqs.weight`: what each frequency is divided by.

    factors_F   one per frequency;   width   of a head;   theta   base of the frequencies
    Returns {} where all are 1. Raises ConfigError where no llama3 scaling gives these factors.
    """
    factor = round(float(factors_F.max()), 4)
    if bool((factors_F == 1).all()):
        return {}
    if len(factors_F) == width // 2 and theta > 1 and 1 < factor < 1e6:
        plain_F, _ = Rope(width=width, theta=theta).frequencies()
        low, high, original = LLAMA3.values()
        rope = Rope(width=width, theta=theta, kind="llama3", factor=factor, low=low, high=high, original=int(original))
        if np.allclose(plain_F / rope.frequencies()[0], factors_F, rtol=1e-3):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3}
    raise ConfigError(
        "GGUF: rope_freqs.weight holds factors that are not Llama 3's scaling. Use the model's safetensors instead."
    )

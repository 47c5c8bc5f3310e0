"""Models to train: read from a checkpoint in float32, written in the official layout with all that goes with them."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import nn

from octavo.core.errors import CheckpointError, ConfigError
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.text.chat import choose_format
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer
from octavo.weights.checkpoint import Checkpoint, name_of, open_checkpoint
from octavo.weights.load import load_weights
from octavo.weights.save import save_checkpoint, write_json

# What Qwen3's makers recommend for the thinking mode; greedy decoding is what they warn of. Source: model card.
GENERATION = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


class Size(Struct, frozen=True, kw_only=True):
    """The shape of a model.   experts: 0 for a dense one; each token goes through two, of half the inner width"""

    width: int
    layers: int
    heads: int
    inner: int
    kv_heads: int = 2
    head_width: int = 32
    experts: int = 0

    def config(self, *, vocabulary: int, context_tokens: int, rope_theta: float) -> dict[str, Any]:
        """config.json, in the official layout."""
        known = {
            "vocab_size": vocabulary, "hidden_size": self.width, "intermediate_size": self.inner,
            "head_dim": self.head_width, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "max_position_embeddings": context_tokens, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "rope_theta": rope_theta, "tie_word_embeddings": True, "attention_bias": False,
            "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "use_sliding_window": False,
            "sliding_window": None, "max_window_layers": self.layers, "dtype": "float32",
        }  # fmt: skip
        if not self.experts:
            return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **known}
        return {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **known, "num_experts": self.experts,
            "num_experts_per_tok": 2, "moe_intermediate_size": self.inner // 2, "norm_topk_prob": True,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }  # fmt: skip


def fresh(config: Mapping[str, Any], *, seed: int) -> Decoder:
    """A model whose weights are small random numbers; what ends in the residual stream is smaller by its depth."""
    torch.manual_seed(seed)
    model = build(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            inward = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
            nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * model.config.layers) if inward else 1))
    return model


def read_model(path: Path, *, changes: Mapping[str, Any] = {}) -> tuple[Decoder, dict[str, Any]]:
    """A checkpoint's model in float32 and its config.json. changes: fields of the config that are to be other."""
    checkpoint: Checkpoint = open_checkpoint(path)
    config = {**checkpoint.config, **changes}
    model = build(config)
    load_weights(checkpoint, model, dtype=torch.float32)
    return model.requires_grad_(True), config


def reread(path: Path, *, context_tokens: int, theta: float, tokens: int = 0) -> tuple[Decoder, dict[str, Any]]:
    """A model to go on with.   context_tokens: at least so many;   theta: base of its rotary positions, 0: as it is

    tokens   of the tokenizer. Raises CheckpointError where the model has rows for fewer.
    """
    config = open_checkpoint(path).config
    changes: dict[str, Any] = {"max_position_embeddings": max(context_tokens, config.get("max_position_embeddings", 0))}
    if theta:
        changes["rope_theta"] = theta
        if config.get("rope_parameters"):  # as transformers 5 writes it
            changes["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    model, config = read_model(path, changes=changes)
    if tokens > model.config.vocab_size:
        raise CheckpointError(f"the tokenizer has {tokens} tokens, {path} has rows for {model.config.vocab_size}: use "
                              f"the model's own.")  # fmt: skip
    return model, config


def check_format(out: Path, form: Format, tokenizer: Tokenizer, *, config: Mapping[str, Any]) -> None:
    """Raise ConfigError where what `out` will hold would be asked in another format than it learns: without a chat
    template, a model's name decides."""
    if tokenizer.chat_template is not None:
        return
    there = choose_format(tokenizer, model_type=str(config.get("model_type")), name=name_of(out)).name
    if there != form.name:
        raise ConfigError(f"out={out}: the model has no chat template, so its name decides how it is asked: as {there} "
                          f"there, and it would learn as {form.name}. Name it as the model is named, or place "
                          f"chat_template.jinja beside that.")  # fmt: skip


def write_model(folder: Path, model: Decoder, *, config: Mapping[str, Any], tokenizer: Tokenizer,
                dtype: torch.dtype | None = None, more: Mapping[str, Mapping[str, Any]] = {},
                adapter: Path | None = None, ends: Sequence[int] = ()) -> None:  # fmt: skip
    """A folder that `transformers`, vLLM and llama.cpp's converter read; it appears whole or not at all.

    ends: tokens that end a reply, should they be more than the tokenizer's own one, as of a base model that has learnt
    to chat
    more: further JSON files, name -> content;   adapter: a folder that goes into it under its name
    Raises CheckpointError where the folder is taken or cannot be written.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: name another folder, or remove it.")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    label = {torch.bfloat16: "bfloat16", torch.float16: "float16"}.get(dtype or torch.float32, "float32")
    save_checkpoint(part, model=model, config={**config, "dtype": label}, tokenizer=tokenizer, dtype=dtype)
    stops = list(dict.fromkeys([*ends, *([] if tokenizer.eos_id is None else [tokenizer.eos_id])]))
    ids = {"eos_token_id": stops if len(stops) > 1 else next(iter(stops), None),
           "pad_token_id": tokenizer.id_of("<|endoftext|>")}  # fmt: skip
    for name, content in {"generation_config.json": {**GENERATION, **ids}, **more}.items():
        write_json(part / name, content)
    if adapter is not None:
        shutil.copytree(adapter, part / adapter.name)
    part.replace(folder)

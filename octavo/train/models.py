"""Models to train: read from a checkpoint in float32, written in the official layout with all that goes with them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from octavo.core.errors import CheckpointError
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.text.tokenizer import Tokenizer
from octavo.weights.checkpoint import Checkpoint, open_checkpoint
from octavo.weights.load import load_weights
from octavo.weights.save import save_checkpoint, write_json

# What Qwen3's makers recommend for the thinking mode; greedy decoding is what they warn of. Source: model card.
GENERATION = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def read_model(path: Path, *, changes: Mapping[str, Any] = {}) -> tuple[Decoder, dict[str, Any]]:
    """A checkpoint's model in float32 and its config.json. changes: fields of the config that are to be other."""
    checkpoint: Checkpoint = open_checkpoint(path)
    config = {**checkpoint.config, **changes}
    model = build(config)
    load_weights(checkpoint, model, dtype=torch.float32)
    return model.requires_grad_(True), config


def reread(path: Path, *, context_tokens: int, theta: float) -> tuple[Decoder, dict[str, Any]]:
    """A model to go on with.   context_tokens: at least so many;   theta: base of its rotary positions, 0: as it is"""
    config = open_checkpoint(path).config
    changes: dict[str, Any] = {"max_position_embeddings": max(context_tokens, config.get("max_position_embeddings", 0))}
    if theta:
        changes["rope_theta"] = theta
        if config.get("rope_parameters"):  # as transformers 5 writes it
            changes["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    return read_model(path, changes=changes)


def write_model(folder: Path, model: Decoder, *, config: Mapping[str, Any], tokenizer: Tokenizer,
                dtype: torch.dtype | None = None, more: Mapping[str, Mapping[str, Any]] = {}) -> None:  # fmt: skip
    """A folder that `transformers`, vLLM and llama.cpp's converter read; it appears whole or not at all.

    more: further JSON files, name -> content. Raises CheckpointError where the folder is taken or cannot be written.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: name another folder, or remove it.")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    label = {torch.bfloat16: "bfloat16", torch.float16: "float16"}.get(dtype or torch.float32, "float32")
    save_checkpoint(part, model=model, config={**config, "dtype": label}, tokenizer=tokenizer, dtype=dtype)
    ends = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.id_of("<|endoftext|>")}
    for name, content in {"generation_config.json": {**GENERATION, **ends}, **more}.items():
        write_json(part / name, content)
    part.replace(folder)

"""A quantised model -> a folder that `open_checkpoint` reads; what is in it says `quantised_file`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.errors import CheckpointError
from octavo.nn.quant import Int8Weight, Weight
from octavo.weights.checkpoint import SINGLE, Checkpoint
from octavo.weights.quantise import Quantised
from octavo.weights.quantised_file import CONFIG, METHOD, ROTATION, packed4, part_of
from octavo.weights.save import Named, SavesTokenizer, new_folder, write_json, write_shard


def save_quantised(folder: Path, found: Quantised, *, checkpoint: Checkpoint, tokenizer: SavesTokenizer) -> None:
    """Write a folder that `open_checkpoint` reads. It appears whole or not at all.

    checkpoint   what was quantised: its configs are kept
    Raises CheckpointError where the folder is taken or cannot be written, or for w4 with an odd number of inputs.
    """
    tensors = [Named(name, tensor) for name, tensor in tensors_of(found).items()]
    how = {"quant_method": METHOD, "rotation": ROTATION, **asdict(found.recipe)}
    config = {**checkpoint.config, CONFIG: how}
    with new_folder(folder) as part:
        with (part / SINGLE).open("wb") as out:
            write_shard(out, tensors, dtype=None)
        write_json(part / "config.json", config)
        if checkpoint.generation_config:
            write_json(part / "generation_config.json", checkpoint.generation_config)
        tokenizer.save(part)


def tensors_of(found: Quantised) -> dict[str, Tensor]:
    """All that the file holds, by name."""
    tensors = dict(found.rest)
    for name, weight in found.weights.items():
        tensors |= {part: torch.from_numpy(array) for part, array in _parts(name, weight).items()}
    return tensors


def _parts(name: str, weight: Weight) -> dict[str, NDArray[Any]]:
    """What a file holds of a weight, by name."""
    if isinstance(weight, Int8Weight):
        return {part_of(name, "q"): weight.q_NK, part_of(name, "scale"): weight.scale_N}
    if weight.q_NK.shape[1] % 2:
        raise CheckpointError(f"{name[:80]} has {weight.q_NK.shape[1]:,} inputs, w4 packs two per byte: take w8.")
    packed = {"q": packed4(weight.q_NK), "group": weight.group_NG, "scale": weight.scale_N}
    return {part_of(name, leaf): array for leaf, array in packed.items()}

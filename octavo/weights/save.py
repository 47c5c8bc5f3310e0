"""A model -> an official checkpoint: safetensors in shards with their index, config.json, tokenizer."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from octavo.core.errors import CheckpointError
from octavo.weights.checkpoint import INDEX, SINGLE
from octavo.weights.load import FUSED, MEMBERS
from octavo.weights.numbers import NUMBERS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# model_type -> the class that other programs look for in config.json
CLASSES = {
    "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}  # fmt: skip


class SavesTokenizer(Protocol):
    """What `octavo.text.Tokenizer` can do."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into an existing folder."""
        ...


class Named(NamedTuple):
    """A tensor under its official name."""

    name: str
    tensor: Tensor


def save_checkpoint(folder: Path | str, *, model: nn.Module, config: Mapping[str, Any],
                    tokenizer: SavesTokenizer | None = None, dtype: torch.dtype | None = None,
                    shard_bytes: int = 5_000_000_000) -> None:  # fmt: skip
    """Write a folder that `open_checkpoint` and `transformers` read. It appears whole or not at all.

    folder        must not exist, or be empty
    config        as config.json has it;   dtype   of the file, None: as the parameters are
    shard_bytes   largest file, but for a single tensor that is larger
    Raises CheckpointError where the folder is taken or cannot be written.
    """
    with new_folder(Path(folder)) as part:
        _write_weights(part, model, dtype=dtype, shard_bytes=shard_bytes)
        kept = {"architectures": [CLASSES[config["model_type"]]]} if config.get("model_type") in CLASSES else {}
        write_json(part / "config.json", {**kept, **config})
        if tokenizer is not None:
            tokenizer.save(part)


@contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """A folder to fill, which becomes `folder` once that is done; where it fails, nothing is left.

    Raises CheckpointError where `folder` is taken or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already and is not empty: name a new folder, or remove it first.")
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        part.replace(folder)
    except OSError as cause:
        raise CheckpointError(f"{folder} cannot be written ({cause.strerror or cause}): free some space, or choose "
                              f"another place.") from cause  # fmt: skip
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file as the official ones look."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def official_tensors(model: nn.Module) -> Iterator[Named]:
    """The model's parameters as official files name them: each expert's projections on their own."""
    for name, parameter in model.named_parameters():
        tensor, match = parameter.detach(), FUSED.fullmatch(name)
        if match is None:
            yield Named(name, tensor)
            continue
        members = MEMBERS[match[2]]
        for expert, one in enumerate(tensor):
            for leaf, rows in zip(members, one.chunk(len(members)), strict=True):
                yield Named(f"{match[1]}.{expert}.{leaf}.weight", rows)


def _write_weights(folder: Path, model: nn.Module, *, dtype: torch.dtype | None, shard_bytes: int) -> None:
    shards, sizes = list[list[Named]]([[]]), [0]
    for named in official_tensors(model):
        size = named.tensor.numel() * (dtype or named.tensor.dtype).itemsize
        if shards[-1] and sizes[-1] + size > shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(named)
        sizes[-1] += size
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [SINGLE]
    for file, shard in zip(files, shards, strict=True):
        with (folder / file).open("wb") as out:
            write_shard(out, shard, dtype=dtype)
    if len(shards) > 1:
        table = {named.name: file for file, shard in zip(files, shards, strict=True) for named in shard}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(table.items()))}
        write_json(folder / INDEX, index)


def write_shard(out: BinaryIO, shard: list[Named], *, dtype: torch.dtype | None) -> None:
    """One file, tensor by tensor, so that a converted copy of one tensor is all the memory it takes."""
    import torch

    labels = {number.torch: label for label, number in NUMBERS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in shard:
        kind = dtype or tensor.dtype
        end = place + math.prod(tensor.shape) * kind.itemsize
        label = labels[str(kind).removeprefix("torch.")]
        header[name] = {"dtype": label, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(header, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-len(raw) % 8)  # so that every tensor begins aligned
    out.write(len(raw).to_bytes(8, "little") + raw)
    for _, tensor in shard:
        plain = tensor.to("cpu", dtype or tensor.dtype).contiguous()
        plain.view(-1).view(torch.uint8).numpy().tofile(out)

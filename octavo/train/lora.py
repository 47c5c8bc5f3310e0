"""LoRA for a whole model: put it in, fold it in, and its files, which are laid out as PEFT's.

A file has adapter_config.json and adapter_model.safetensors, whose tensors are named `base_model.model.` + the module's
name + `.lora_A.weight` (R, I) or `.lora_B.weight` (O, R).
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from torch import nn

from octavo.core.errors import CheckpointError, ConfigError
from octavo.core.strict import read_json_object
from octavo.models.decoder import Decoder
from octavo.nn.lora import LoraLinear
from octavo.train.ranks import Ranks
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import name_of
from octavo.weights.safetensors_file import SafetensorsFile
from octavo.weights.save import Named, new_folder, write_json, write_shard

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# All that can be adapted: of a head and of a router the forward passes read the matrix, past any change beside it.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which matrices are adapted, and how.   rank 0: none"""

    rank: Annotated[int, Meta(ge=0, description="of the change; 0: train the whole model")] = 0
    alpha: Annotated[float, Meta(gt=0, description="the change is scaled by alpha / rank")] = 32.0
    targets: Annotated[tuple[str, ...], Meta(min_length=1, description="names of the matrices, JSON list")] = TARGETS
    begin: Annotated[str, Meta(description="folder of changes to go on with, PEFT's too; rank and all else is its")] = (
        ""
    )


def begin_lora(model: Decoder, lora: Lora, *, seed: int, ranks: Ranks) -> Lora:
    """Adapt a model in place where that is asked for. Returns the changes' shape; rank 0: none.

    Raises ConfigError under torchrun, and as `adapt` and `load_lora`.
    """
    if not (lora.rank or lora.begin):
        return lora
    if ranks.size > 1:
        raise ConfigError("lora: changes of low rank are learnt in one process: leave torchrun out.")
    if lora.begin:
        return load_lora(Path(lora.begin), model)
    adapt(model, lora, seed=seed)
    return lora


def base_name(config: Mapping[str, Any], model: Path) -> str:
    """What an adapter's file calls the model that it belongs to: as its config does, else as the hub."""
    return str(config.get("_name_or_path") or name_of(model))


def end_lora(trainer: Trainer, lora: Lora, *, folder: Path, base: str) -> Path | None:
    """Write a trained model's changes into `folder`/adapter, and fold them in. Returns where; None: there are none."""
    if not lora.rank:
        return None
    adapter = folder / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    save_lora(adapter, trainer.model, lora, base=base)
    fold(trainer.model)
    return adapter


def adapt(model: Decoder, lora: Lora, *, seed: int = 0) -> None:
    """Freeze a model and put changes beside its matrices, in place. Raises ConfigError for a name it does not have."""
    if lora.rank < 1:
        raise ConfigError(f"lora.rank={lora.rank}: a change needs a rank of 1 or more.")
    torch.manual_seed(seed)
    model.requires_grad_(False)
    leaves = [(name.rsplit(".", 1)[-1], name, module) for name, module in model.named_modules()
              if type(module) is nn.Linear and name.endswith(TARGETS)]  # fmt: skip
    there = sorted({leaf for leaf, _, _ in leaves})
    missing = sorted(set(lora.targets) - set(there))
    if missing:
        raise ConfigError(f"lora.targets: the model has no matrix {missing[0]} that can be adapted: choose of "
                          f"{', '.join(there)}.")  # fmt: skip
    for name, module in [(name, module) for leaf, name, module in leaves if leaf in lora.targets]:
        _put(model, name, LoraLinear(module, rank=lora.rank, scale=lora.alpha / lora.rank))


def adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """All changes with their modules' names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def fold(model: Decoder) -> None:
    """Fold the changes into the matrices, in place: a plain model again, whose parameters may be trained."""
    for name, module in list(adapted(model)):
        _put(model, name, module.merged())
    model.requires_grad_(True)


def save_lora(folder: Path, model: Decoder, lora: Lora, *, base: str) -> None:
    """Write a model's changes.   base: the name of the model they belong to. Raises CheckpointError."""
    tensors = [Named(f"{PREFIX}{name}.{part}.weight", getattr(module, part).weight.detach())
               for name, module in adapted(model) for part in ("lora_A", "lora_B")]  # fmt: skip
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": lora.rank,
        "lora_alpha": lora.alpha, "target_modules": list(lora.targets), "bias": "none", "lora_dropout": 0.0,
        "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False, "use_dora": False,
    }  # fmt: skip
    with new_folder(folder) as part:
        with (part / TENSORS).open("wb") as out:
            write_shard(out, tensors, dtype=None)
        write_json(part / CONFIG, config)


def load_lora(folder: Path, model: Decoder) -> Lora:
    """Put changes that were saved, here or by PEFT, beside a model's matrices.

    Raises CheckpointError for a kind of change that is not understood, and where names or shapes are another model's.
    """
    config = read_json_object(folder / CONFIG, error=CheckpointError)
    odd = [key for key in ("use_dora", "use_rslora", "fan_in_fan_out", "modules_to_save", "rank_pattern",
                           "alpha_pattern") if config.get(key)]  # fmt: skip
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        what = odd[0] if odd else f"peft_type {config.get('peft_type')!r}"
        raise CheckpointError(
            f"{folder / CONFIG} asks for {what}, only plain LoRA is understood: fold it in with PEFT."
        )
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not isinstance(config.get("r"), int):
        raise CheckpointError(f"{folder / CONFIG}: target_modules must be a list of names and r a whole number.")
    lora = Lora(rank=config["r"], alpha=float(config.get("lora_alpha", config["r"])), targets=tuple(sorted(targets)))
    adapt(model, lora)
    file = SafetensorsFile(folder / TENSORS)
    wanted = {f"{PREFIX}{name}.{part}.weight": getattr(module, part).weight
              for name, module in adapted(model) for part in ("lora_A", "lora_B")}  # fmt: skip
    for name in sorted({*wanted, *file.names}):
        if name not in wanted or name not in file.names or file.shape(name) != tuple(wanted[name].shape):
            raise CheckpointError(f"{folder / TENSORS}: {name} does not fit the model: is it the base of this adapter?")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(file.tensor(name))
    return lora


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)

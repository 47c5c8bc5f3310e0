"""Files -> a model's parameters. All names and shapes are checked before the first number is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from octavo.core.errors import CheckpointError
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.numbers import NUMBERS, WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Place = Callable[[str, Tensor], bool]

FUSED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")
MEMBERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}  # stacked in this order
IGNORED = re.compile(r"(.*\.)?rotary_emb\.inv_freq")  # old files keep what follows from the config
HEAD = "lm_head.weight"
SHOWN = 3  # names in one message


class Part(NamedTuple):
    """A tensor of the file that fills rows `row` .. `row + shape[0]` of one expert of a parameter."""

    source: str
    shape: tuple[int, ...]
    expert: int
    row: int


class Wanted(NamedTuple):
    """A parameter and what fills it: the file's tensor of the same name, or `parts` where experts are stored singly."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...] = ()


def load_weights(checkpoint: Checkpoint, model: nn.Module, *, dtype: torch.dtype, place: Place | None = None) -> None:
    """Fill a model that was built on the meta device.

    dtype   of the parameters; where it is the file's, they are views of the file, read when first used
    place   called with each parameter's name and tensor (in `dtype`), in the model's order; True: it was taken, and
            the model's parameter stays as it was
    Raises CheckpointError naming what is missing, left over or of the wrong shape; then the model is as before.
    """
    from torch import nn

    plan = plan_load(checkpoint, {name: tuple(p.shape) for name, p in model.named_parameters()})
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in plan}  # `place` may take modules away
    loaded: dict[str, Tensor] = {}
    following = [*plan.items()][1:]
    for index, (name, wanted) in enumerate(plan.items()):
        for after, filled in following[index : index + 1]:  # comes from the disk while this one is packed
            _prefetch(checkpoint, after, filled, dtype=None if place else dtype)
        tensor = _assemble(checkpoint, wanted, dtype=dtype) if wanted.parts else checkpoint.read(name).to(dtype)
        taken = place is not None and place(name, tensor)
        if not taken:
            loaded[name] = tensor
        if not wanted.parts and (taken or checkpoint.dtype(name) != dtype):
            checkpoint.release(name)
    for name, tensor in loaded.items():
        setattr(owners[name], name.rpartition(".")[2], nn.Parameter(tensor, requires_grad=False))


def plan_load(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Wanted]:
    """What fills each parameter (name -> shape). Raises CheckpointError unless the file holds exactly that."""
    there = set(checkpoint.names)
    plan = {name: Wanted(shape, () if name in there else _parts(name, shape, there)) for name, shape in shapes.items()}
    needed = {name: wanted.shape for name, wanted in plan.items() if not wanted.parts}
    needed |= {part.source: part.shape for wanted in plan.values() for part in wanted.parts}
    where = checkpoint.path.name
    absent = [name for name in needed if name not in there]
    if absent:
        raise CheckpointError(
            f"{where} lacks {_some(absent)}, which its config asks for. Weights and config.json come from different "
            f"models, or the download is not complete: download the model again."
        )
    extra = [name for name in checkpoint.names if name not in needed and not _harmless(name, shapes)]
    if extra:
        raise CheckpointError(
            f"{where} also holds {_some(extra)}, for which its config has no place. Weights and config.json come from "
            f"different models: download both again."
        )
    for name, shape in needed.items():
        if checkpoint.shape(name) != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(checkpoint.shape(name))}, its config needs {list(shape)}. Weights "
                f"and config.json come from different models: download both again, or name the right folder."
            )
        stored = checkpoint.dtype_name(name)
        if stored in NUMBERS and stored not in WEIGHTS:
            raise CheckpointError(
                f"{where}: {name} is stored as {stored}, which says nothing without its scales: Octavo "
                f"reads {', '.join(WEIGHTS)}, and GGUF for quantised weights. Choose such a variant of the model."
            )
    return plan


def _parts(name: str, shape: tuple[int, ...], there: set[str]) -> tuple[Part, ...]:
    """The official files' single experts behind a fused parameter; () for any other parameter.

    Only the last expert where the file lacks that one: a config may claim any number of them.
    """
    match = FUSED.fullmatch(name)
    if match is None:
        return ()
    members, last = MEMBERS[match[2]], shape[0] - 1
    rows = shape[1] // len(members)
    first = 0 if f"{match[1]}.{last}.{members[0]}.weight" in there else last
    return tuple(
        Part(f"{match[1]}.{expert}.{leaf}.weight", (rows, shape[2]), expert, rows * place)
        for expert in range(first, shape[0])
        for place, leaf in enumerate(members)
    )


def _prefetch(checkpoint: Checkpoint, name: str, wanted: Wanted, *, dtype: torch.dtype | None) -> None:
    """Begin to read a parameter, unless it stays a view because the file has it in `dtype`: that is read when used."""
    if not wanted.parts and checkpoint.dtype(name) == dtype:
        return
    for source in [part.source for part in wanted.parts] or [name]:
        checkpoint.prefetch(source)


def _assemble(checkpoint: Checkpoint, wanted: Wanted, *, dtype: torch.dtype) -> Tensor:
    import torch

    whole = torch.empty(wanted.shape, dtype=dtype)
    for part in wanted.parts:
        whole[part.expert, part.row : part.row + part.shape[0]] = checkpoint.read(part.source)
        checkpoint.release(part.source)
    return whole


def _harmless(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """What a file may hold beside the parameters: old buffers, and a copy of the embedding where the head is tied."""
    return IGNORED.fullmatch(name) is not None or (name == HEAD and HEAD not in shapes)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(name[:80] for name in names[:SHOWN]) + more

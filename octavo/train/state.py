"""The state of a run on the disk: written whole or not at all, so that a kill at any moment loses no more than
the steps since the last one.

A state is a folder `state-STEP` with state.json and the tensors. The two last ones are kept: the newest may be
the one that was being written when the power went.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from warnings import catch_warnings, simplefilter

import torch
from msgspec import Struct

from octavo.core.errors import CheckpointError, TrainingError
from octavo.train.trainer import Trainer
from octavo.weights.safetensors_file import SafetensorsFile
from octavo.weights.save import Named, write_shard

KEPT = 2
WHOLE, DIVIDED = "tensors.safetensors", "tensors"  # written by one process alone, by many
NAME = re.compile(r"state-(\d{9})")


class State(Struct, frozen=True, kw_only=True):
    """What is beside the tensors.   settings: of the run"""

    step: int
    settings: dict[str, Any]


def save_state(folder: Path, trainer: Trainer, *, settings: dict[str, Any]) -> Path:
    """Write the state of a run into `folder`, and remove all but the last two. All ranks must ask together.

    Raises CheckpointError.
    """
    ranks, target, part = trainer.ranks, folder / f"state-{trainer.step:09}", folder / ".state.part"
    try:
        if ranks.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        if ranks.size == 1:
            with (part / WHOLE).open("wb") as out:
                write_shard(out, [Named(name, tensor) for name, tensor in trainer.tensors().items()], dtype=None)
                _to_disk(out)
        else:
            ranks.wait()
            save_divided(part / DIVIDED, trainer)
        if ranks.rank == 0:
            with (part / "state.json").open("w", encoding="utf-8") as out:
                json.dump({"step": trainer.step, "settings": settings}, out)
                _to_disk(out)
            shutil.rmtree(target, ignore_errors=True)
            part.replace(target)
            for old in sorted(_states(folder))[:-KEPT]:
                shutil.rmtree(old)
        ranks.wait()
    except OSError as cause:
        raise CheckpointError(f"{folder}: the state cannot be written ({cause.strerror}): free some space.") from cause
    return target


def load_state(folder: Path, trainer: Trainer, *, settings: dict[str, Any]) -> State | None:
    """Go on with the newest state in `folder` that is whole; None where there is none.

    Raises TrainingError where it is of a run with other settings, and where there are states of which none can be read.
    """
    settings, states = json.loads(json.dumps(settings)), sorted(_states(folder), reverse=True)
    for path in states:
        whole = _opened(path)
        if whole is None:  # it was being written when the run ended: the one before it is not
            continue
        state, tensors = whole
        changed = sorted(key for key in {*state.settings, *settings} if state.settings.get(key) != settings.get(key))
        if changed:
            key = changed[0]
            raise TrainingError(
                f"{folder} has a run with {key}={state.settings.get(key)!r}, asked for is {settings.get(key)!r}: go on "
                f"with the same settings, or name another folder."
            )
        trainer.restore(tensors(trainer), step=state.step)
        return state
    if states:
        raise TrainingError(
            f"{folder} has {' and '.join(path.name for path in reversed(states))}, and none can be read: if the disk "
            f"is at fault, mend that and go on; else remove them, and the run begins anew."
        )
    return None


def _opened(path: Path) -> tuple[State, Callable[[Trainer], dict[str, torch.Tensor]]] | None:
    """A state, and what reads its tensors; None where they are not all there."""
    try:
        kept = json.loads((path / "state.json").read_text(encoding="utf-8"))
        state = State(step=kept["step"], settings=kept["settings"])
        if (path / DIVIDED).is_dir():
            return state, lambda trainer: load_divided(path / DIVIDED, trainer)
        file = SafetensorsFile(path / WHOLE)
        return state, lambda trainer: {name: file.tensor(name) for name in file.names}
    except (OSError, ValueError, TypeError, KeyError, CheckpointError):
        return None


def save_divided(folder: Path, trainer: Trainer) -> None:
    """Each rank writes its parts, by torch's distributed checkpoint: any number of ranks can read them again."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    save(dict(trainer.tensors()), storage_writer=FileSystemWriter(folder))


def load_divided(folder: Path, trainer: Trainer) -> dict[str, torch.Tensor]:
    """This rank's parts of what any number of ranks have written."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader, owners, wanted = FileSystemReader(folder), trainer.owners(), dict[str, Any]()
    for name, told in reader.read_metadata().state_dict_metadata.items():
        owner = owners.get(name, owners.get(name.rpartition(".")[0]))
        assert isinstance(told, TensorStorageMetadata)
        if owner is not None and owner.shape == told.size:
            wanted[name] = torch.zeros_like(owner.detach(), dtype=told.properties.dtype)
        else:
            wanted[name] = torch.zeros(told.size, dtype=told.properties.dtype)
    with catch_warnings():
        simplefilter("ignore")  # that one process reads alone what many wrote is what was asked for
        load(wanted, storage_reader=reader, no_dist=trainer.ranks.size == 1)
    return wanted


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob("state-*") if NAME.fullmatch(path.name)] if folder.is_dir() else []


def _to_disk(out: IO[Any]) -> None:
    out.flush()
    os.fsync(out.fileno())

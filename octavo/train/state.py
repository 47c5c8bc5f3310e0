"""The state of a run on the disk: written whole or not at all, so that a kill at any moment loses one step at most.

A state is a folder `state-STEP` with tensors.safetensors and state.json. The two last ones are kept: the newest may be
the one that was being written when the power went.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from octavo.core.errors import CheckpointError, TrainingError
from octavo.train.trainer import Trainer
from octavo.weights.numbers import NUMBERS
from octavo.weights.safetensors_file import SafetensorsFile
from octavo.weights.save import Named, write_shard

KEPT = 2
NAME = re.compile(r"state-(\d{9})")


class State(Struct, frozen=True, kw_only=True):
    """What is beside the tensors.   settings: of the run;   position: of the data, plain"""

    step: int
    settings: dict[str, Any]
    position: dict[str, Any]


def save_state(folder: Path, trainer: Trainer, *, settings: dict[str, Any], position: dict[str, Any]) -> Path:
    """Write the state of a run into `folder`, and remove all but the last two. Raises CheckpointError."""
    target, part = folder / f"state-{trainer.step:09}", folder / f".state-{os.getpid()}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with (part / "tensors.safetensors").open("wb") as out:
            write_shard(out, [Named(name, tensor) for name, tensor in trainer.tensors().items()], dtype=None)
            _to_disk(out.fileno())
        with (part / "state.json").open("w", encoding="utf-8") as out:
            json.dump({"step": trainer.step, "settings": settings, "position": position}, out)
            out.flush()
            _to_disk(out.fileno())
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        for old in sorted(_states(folder))[:-KEPT]:
            shutil.rmtree(old)
    except OSError as cause:
        raise CheckpointError(f"{folder}: the state cannot be written ({cause.strerror}): free some space.") from cause
    return target


def load_state(folder: Path, trainer: Trainer, *, settings: dict[str, Any]) -> State | None:
    """Go on with the newest state in `folder` that is whole; None where there is none.

    Raises TrainingError where it is of a run with other settings.
    """
    for path in sorted(_states(folder), reverse=True):
        whole = _opened(path)
        if whole is None:  # it was being written when the run ended: the one before it is not
            continue
        state, file = whole
        changed = sorted(key for key in {*state.settings, *settings} if state.settings.get(key) != settings.get(key))
        if changed:
            key = changed[0]
            raise TrainingError(
                f"{folder} has a run with {key}={state.settings.get(key)!r}, asked for is {settings.get(key)!r}: go on "
                f"with the same settings, or name another folder."
            )
        trainer.restore({name: _tensor(file, name) for name in file.names}, step=state.step)
        return state
    return None


def _opened(path: Path) -> tuple[State, SafetensorsFile] | None:
    """A state and its tensors; None where they are not all there."""
    try:
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        return state, SafetensorsFile(path / "tensors.safetensors")
    except (OSError, ValueError, TypeError, CheckpointError):
        return None


def _tensor(file: SafetensorsFile, name: str) -> torch.Tensor:
    kind = getattr(torch, NUMBERS[file.dtype_name(name)].torch)
    return torch.from_numpy(file.raw(name).copy()).view(-1).view(kind).view(file.shape(name))


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob("state-*") if NAME.fullmatch(path.name)] if folder.is_dir() else []


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)

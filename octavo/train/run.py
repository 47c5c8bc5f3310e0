"""A run: steps one after the other, logged and saved, so that it can be stopped and gone on with at any moment."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import torch
from msgspec import Struct

from octavo.core.errors import TrainingError
from octavo.train.batch import Batch
from octavo.train.speed import peak_flops
from octavo.train.state import load_state, save_state
from octavo.train.trainer import Learnt, Trainer

LOG, BOARD, LOCK = "log.jsonl", "tensorboard", ".lock"


class Told(Struct, frozen=True, kw_only=True):
    """A line of the log.

    tokens    of all steps so far, flops too: the floating-point operations of the model's arithmetic
    seconds, cpu_s   of this step, its data included;   speed   tokens per second
    mfu       share of this machine's floating-point operations that the step has used
    """

    step: int
    loss: float
    norm: float
    rate: float
    tokens: int
    seconds: float
    cpu_s: float
    speed: float = 0.0
    flops: float = 0.0
    mfu: float = 0.0
    figures: dict[str, float] = {}


class Progress(Protocol):
    """What shows a run to a person."""

    def begin(self, name: str, *, steps: int, done: int) -> AbstractContextManager[Callable[[Told], None]]:
        """Shows each line that the function is given."""
        ...


class Silent:
    """Shows nothing."""

    def begin(self, name: str, *, steps: int, done: int) -> AbstractContextManager[Callable[[Told], None]]:
        """Nothing."""
        return nullcontext(lambda told: None)


class Run:
    """One run in a folder of its own.

    told   what was logged, of all steps: also of those before it was gone on with
    """

    def __init__(self, folder: Path, trainer: Trainer, *, settings: dict[str, Any], save_s: float = 30.0,
                 progress: Progress | None = None, board: bool = False) -> None:  # fmt: skip
        """Goes on where the folder's newest state says.

        save_s: seconds between states;   board: write for TensorBoard too
        Raises TrainingError where the folder has a run with other settings, one that is going on in another process, or
        one whose log is not whole; where it cannot be written; and where TensorBoard is not installed.
        """
        self.folder, self.trainer, self.settings, self.save_s = folder, trainer, settings, save_s
        self.first = trainer.ranks.rank == 0  # who writes
        self.progress = (progress if self.first else None) or Silent()
        if self.first:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.lock = hold(folder)  # open, and so this run's, as long as this object lives
            except OSError as cause:
                raise TrainingError(f"{folder} cannot be written ({cause.strerror}): choose another place.") from cause
        trainer.ranks.wait()
        state = load_state(folder, trainer, settings=settings)
        self.saved = None if state is None else state.step  # newest step whose state is whole on the disk
        self.told = self._kept_lines()
        self.board = open_board(folder / BOARD, after=trainer.step) if board and self.first else None
        dtype = torch.bfloat16 if trainer.bf16 else torch.float32
        self.peak = peak_flops(trainer.ranks.device, dtype) * trainer.ranks.size

    def go(self, batches: Callable[[int], Sequence[Batch]], *, steps: int,
           until: Callable[[int], bool] = lambda step: False, together: int = 1,
           figures: Callable[[int], dict[str, float]] = lambda step: {}) -> None:  # fmt: skip
        """Learn from batches(step), a pure function of the step, up to `steps` steps or until `until(steps done)`.

        batches, until   asked of each rank: of its own batches, and with the same answer
        together         so many steps share what `batches` found at the first of them: never stopped or saved between
        figures          steps done -> more to be logged: what is measured now and then, as a held-out loss
        """
        saved_s = time.monotonic()
        log_file: Any = (self.folder / LOG).open("a", encoding="utf-8") if self.first else nullcontext()
        with log_file as log, self.progress.begin(self.folder.name, steps=steps, done=self.trainer.step) as show:
            while self.trainer.step < steps and (self.trainer.step % together or not until(self.trainer.step)):
                begun_s, cpu_s = time.perf_counter(), cpu_time_s()
                learnt = self.trainer.learn(batches(self.trainer.step))
                seconds, cpu_s = time.perf_counter() - begun_s, cpu_time_s() - cpu_s
                told = self._line(learnt, seconds=seconds, cpu_s=cpu_s, more=figures(self.trainer.step))
                self.told.append(told)
                if self.first:
                    log.write(msgspec.json.encode(told).decode() + "\n")
                    self._draw(told)
                    show(told)
                due = time.monotonic() - saved_s > self.save_s and self.trainer.step % together == 0
                if self._agreed(due):
                    self._save(log)
                    saved_s = time.monotonic()
            self._save(log)

    def _agreed(self, due: bool) -> bool:
        """Whether the first rank finds that it is time: all ranks save together."""
        return self.trainer.ranks.first_says(due)

    def _save(self, log: Any) -> None:
        if self.saved == self.trainer.step:  # to write it anew would take away the only one for a moment
            return
        if self.first:
            log.flush()  # the log is ahead of the state, never behind it
            os.fsync(log.fileno())
        if self.board is not None:
            self.board.flush()
        save_state(self.folder, self.trainer, settings=self.settings)
        self.saved = self.trainer.step

    def _line(self, learnt: Learnt, *, seconds: float, cpu_s: float, more: dict[str, float]) -> Told:
        before = self.told[-1] if self.told else None
        tokens, flops = (before.tokens, before.flops) if before else (0, 0.0)
        return Told(
            step=learnt.step, loss=learnt.loss, norm=learnt.norm, rate=learnt.rate, tokens=tokens + learnt.tokens,
            seconds=seconds, cpu_s=cpu_s, speed=learnt.tokens / seconds, flops=flops + learnt.flops,
            mfu=learnt.flops / seconds / self.peak,
            figures={name: value for name, value in {**learnt.figures, **more}.items() if math.isfinite(value)},
        )  # fmt: skip

    def _draw(self, told: Told) -> None:
        if self.board is not None:
            for name in ("loss", "norm", "rate", "tokens", "speed", "mfu"):
                self.board.add_scalar(name, getattr(told, name), told.step)
            for name, value in told.figures.items():
                self.board.add_scalar(name, value, told.step)

    def _kept_lines(self) -> list[Told]:
        """Lines of the steps that the state has; later ones are taken out of the file: they will come again."""
        path = self.folder / LOG
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        lines = lines[: self.trainer.step]
        if len(lines) < self.trainer.step or (lines and not lines[-1].endswith("\n")):
            raise TrainingError(f"{path} has not all lines of the {self.trainer.step} steps that the state has: put it "
                                f"back, or remove {self.folder}, and the run begins anew.")  # fmt: skip
        if self.first and path.exists():
            part = path.with_suffix(".part")
            part.write_text("".join(lines), encoding="utf-8")
            part.replace(path)
        self.trainer.ranks.wait()
        return [msgspec.json.decode(line, type=Told) for line in lines]


def hold(folder: Path) -> IO[str]:
    """The lock of a run's folder, this process's while the file is open; of nobody where a file system has no locks.

    Raises TrainingError: it is another's.
    """
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read() or "unknown"
        file.close()
        raise TrainingError(f"{folder}: process {owner} is training here already: wait for its end, stop it, or name "
                            f"another folder.") from None  # fmt: skip
    except OSError:  # as on some of clusters: runs must go there too
        return file
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def open_board(folder: Path, *, after: int) -> Any:
    """Torch's writer for TensorBoard, without what it had of later steps. Raises TrainingError: not installed."""
    if find_spec("tensorboard") is None:
        raise TrainingError("TensorBoard is not installed: pip install 'octavo[train]', or leave board=true out.")
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

    return SummaryWriter(str(folder), purge_step=after + 1)


def cpu_time_s() -> float:
    """Processor time of this process and its children so far."""
    return sum(os.times()[:4])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """A run's log, a line each step."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]

"""A run: steps one after the other, logged and saved, so that it can be stopped and gone on with at any moment."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from octavo.train.batch import Batch
from octavo.train.state import load_state, save_state
from octavo.train.trainer import Learnt, Trainer

LOG = "log.jsonl"


class Told(Struct, frozen=True, kw_only=True):
    """A line of the log.   seconds, cpu_s: of this step, its data included;   tokens: of all steps so far"""

    step: int
    loss: float
    norm: float
    rate: float
    tokens: int
    seconds: float
    cpu_s: float
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
                 progress: Progress | None = None) -> None:  # fmt: skip
        """Goes on where the folder's newest state says. save_s: seconds between states.

        Raises TrainingError where the folder has a run with other settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.trainer, self.settings, self.save_s = folder, trainer, settings, save_s
        self.progress = progress or Silent()
        load_state(folder, trainer, settings=settings)
        self.told = self._kept_lines()

    def go(self, batches: Callable[[int], Sequence[Batch]], *, steps: int,
           until: Callable[[int], bool] = lambda step: False) -> None:  # fmt: skip
        """Learn from batches(step), a pure function of the step, up to `steps` steps or until `until(steps done)`."""
        saved_s = time.monotonic()
        with (
            (self.folder / LOG).open("a", encoding="utf-8") as log,
            self.progress.begin(self.folder.name, steps=steps, done=self.trainer.step) as show,
        ):
            while self.trainer.step < steps and not until(self.trainer.step):
                begun_s, cpu_s = time.perf_counter(), cpu_time_s()
                learnt = self.trainer.learn(batches(self.trainer.step))
                told = self._line(learnt, seconds=time.perf_counter() - begun_s, cpu_s=cpu_time_s() - cpu_s)
                self.told.append(told)
                log.write(msgspec.json.encode(told).decode() + "\n")
                show(told)
                if time.monotonic() - saved_s > self.save_s:
                    self._save(log)
                    saved_s = time.monotonic()
            self._save(log)

    def _save(self, log: Any) -> None:
        log.flush()  # the log is ahead of the state, never behind it
        os.fsync(log.fileno())
        save_state(self.folder, self.trainer, settings=self.settings, position={})

    def _line(self, learnt: Learnt, *, seconds: float, cpu_s: float) -> Told:
        before = self.told[-1].tokens if self.told else 0
        return Told(
            step=learnt.step, loss=learnt.loss, norm=learnt.norm, rate=learnt.rate, tokens=before + learnt.tokens,
            seconds=seconds, cpu_s=cpu_s, figures=learnt.figures,
        )  # fmt: skip

    def _kept_lines(self) -> list[Told]:
        """Lines of the steps that the state has; later ones are taken out of the file: they will come again."""
        path = self.folder / LOG
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: self.trainer.step]
        part = path.with_suffix(".part")
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(path)
        return [msgspec.json.decode(line, type=Told) for line in lines]


def cpu_time_s() -> float:
    """Processor time of this process and its children so far."""
    return sum(os.times()[:4])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """A run's log, a line each step."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]

"""The suite's stages, in order. Each leaves a folder with a checkpoint in the official layout; a folder that is there
is not made again, and one that was under way is gone on with: so the suite can be stopped at any moment.
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from octavo.core.sample import Sample
from octavo.models.decoder import Decoder
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.learn import learn_tokenizer
from octavo.text.tokenizer import Tokenizer
from octavo.train.batch import Batch, filled, pack
from octavo.train.conversations import Writer
from octavo.train.mini.lessons import cold_start
from octavo.train.mini.plan import Lesson, Plan, Reading, Size
from octavo.train.mini.reading import BATCH_TOKENS, fresh, reader
from octavo.train.mini.texts import document, fixed_texts
from octavo.train.models import read_model, write_model
from octavo.train.optimiser import Optimisation
from octavo.train.run import Progress, Run, cpu_time_s
from octavo.train.schedule import factor
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer

TOKENIZER_TEXTS = 6000
CARD = "stage.json"


def muon(rate: float) -> Optimisation:
    """What all supervised stages are optimised with."""
    return Optimisation(method="muon", rate=rate, betas=(0.9, 0.98), weight_decay=0.05)


class Stage(NamedTuple):
    """What a stage is given: the model to go on with, and where its run may leave what it needs to be gone on with."""

    model: Decoder
    config: dict[str, Any]
    run: Path


class Suite:
    """One run of the suite in a folder."""

    def __init__(self, folder: Path, plan: Plan, *, seed: int = 0, progress: Progress | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.plan, self.seed, self.progress = folder, plan, seed, progress

    def tokenizer(self) -> Tokenizer:
        """Learnt from what will be read, and from the fixed texts of the chat format."""
        place = self.folder / "tokenizer"
        if not place.is_dir():
            blend = self.plan.readings[-1].blend
            texts = [document(blend, seed=f"{self.seed} tokenizer", number=i) for i in range(TOKENIZER_TEXTS)]
            made = learn_tokenizer([*texts, *fixed_texts()], size=self.plan.vocabulary)
            part = place.with_suffix(".part")
            part.mkdir(exist_ok=True)
            made.save(part)
            part.replace(place)
        return Tokenizer.from_folder(place)

    def pretrain(self, name: str, size: Size, *, share: float = 1.0) -> Path:
        """The stages of pre-training one after the other, each with its own blend, rate and base of positions.

        share: of the planned steps
        """
        path = Path()
        for number, reading in enumerate(self.plan.readings, 1):
            begin = self._fresh(size, reading) if number == 1 else self._from(path, {"rope_theta": reading.theta})
            steps = max(4, round(reading.steps * share))

            def read(stage: Stage, reading: Reading = reading, steps: int = steps) -> dict[str, Any]:
                return self._read(stage, reading, steps=steps)

            path = self.stage(f"{name}-{number}-{reading.name}", begin, read)
        return path

    def stage(self, name: str, begin: Callable[[], tuple[Decoder, dict[str, Any]]],
              learn: Callable[[Stage], Mapping[str, Any]]) -> Path:  # fmt: skip
        """A stage's folder, made where it is not there yet. learn: trains the model in place; what it returns is kept
        in stage.json, with the time that the stage took."""
        place, run = self.folder / name, self.folder / "runs" / name
        if not place.is_dir():
            begun_s, cpu_s = time.perf_counter(), cpu_time_s()
            model, config = begin()
            card = learn(Stage(model, config, run))
            times = {"seconds": time.perf_counter() - begun_s, "cpu_s": cpu_time_s() - cpu_s}
            write_model(place, model, config=config, tokenizer=self.tokenizer(), more={CARD: {**times, **card}})
            for state in run.glob("state-*"):
                shutil.rmtree(state)
        return place

    def _fresh(self, size: Size, reading: Reading) -> Callable[[], tuple[Decoder, dict[str, Any]]]:
        rows = -(-self.tokenizer().vocab_size // 64) * 64
        config = size.config(vocabulary=rows, context_tokens=self.plan.context_tokens, rope_theta=reading.theta)
        return lambda: (fresh(config, seed=self.seed), config)

    def _from(self, path: Path, changes: Mapping[str, Any] = {}) -> Callable[[], tuple[Decoder, dict[str, Any]]]:
        return lambda: read_model(path, changes=changes)

    def _read(self, stage: Stage, reading: Reading, *, steps: int) -> dict[str, Any]:
        def rate(step: int) -> float:
            return factor(
                "wsd", step=step, steps=steps, warmup=reading.warmup, decay=reading.decay, least=reading.least
            )

        run = Run(stage.run, Trainer(stage.model, CrossEntropy(), muon(reading.rate), rate=rate),
                  settings={"steps": steps}, progress=self.progress)  # fmt: skip
        run.go(reader(reading, self.tokenizer(), seed=self.seed), steps=steps)
        return {"tokens": run.told[-1].tokens, "steps": steps, "loss": run.told[-1].loss}

    def cold_start(self, name: str, before: Path) -> Path:
        """Few thinking conversations, few steps: the model learns the format and to think, and leaves room for RL."""
        tokenizer, plan = self.tokenizer(), self.plan
        lessons = cold_start(self._writer(tokenizer), plan.levels, seed=f"{self.seed} cold", count=plan.cold_samples)
        return self.stage(name, self._from(before), lambda stage: self._learn(stage, lessons, plan.cold))

    def _writer(self, tokenizer: Tokenizer) -> Writer:
        return Writer(Qwen3(), tokenizer, longest=self.plan.context_tokens)

    def _learn(self, stage: Stage, lessons: Sequence[Sample], lesson: Lesson) -> dict[str, Any]:
        """Supervised: each step takes the next samples of an order that is drawn anew for each round."""

        def batches(step: int) -> list[Batch]:
            rounds = max(1, len(lessons) // lesson.samples)
            order = random.Random(f"{self.seed} {step // rounds}").sample(range(len(lessons)), k=len(lessons))
            first = step % rounds * lesson.samples
            chosen = [lessons[i] for i in order[first : first + lesson.samples]]
            return [pack(group) for group in filled(chosen, tokens=BATCH_TOKENS)]

        def rate(step: int) -> float:
            return factor("wsd", step=step, steps=lesson.steps, warmup=10, decay=0.5, least=0.1)

        run = Run(stage.run, Trainer(stage.model, CrossEntropy(), muon(lesson.rate), rate=rate),
                  settings={"steps": lesson.steps}, progress=self.progress)  # fmt: skip
        run.go(batches, steps=lesson.steps)
        return {"tokens": run.told[-1].tokens, "steps": lesson.steps, "loss": run.told[-1].loss}

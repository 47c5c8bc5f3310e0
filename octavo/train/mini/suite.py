"""The suite's stages, in order. Each leaves a folder with a checkpoint in the official layout; a folder that is there
is not made again, and one that was under way is gone on with: so the suite can be stopped at any moment. A plan may
change for stages that are not made yet; what was made as it is no longer planned is refused.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from octavo.core.errors import TrainingError
from octavo.models.decoder import Decoder
from octavo.tasks import TASKS
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.learn import learn_tokenizer
from octavo.text.tokenizer import Tokenizer
from octavo.train.asked import CARD
from octavo.train.mini.exam import Exam
from octavo.train.mini.plan import Plan, Reading, muon
from octavo.train.mini.reading import looked_up, reader
from octavo.train.mini.texts import EDITION, document, fixed_texts
from octavo.train.models import Size, fresh, read_model, reread, write_model
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.recipes import coldstart, distill, fuse, general_rl, rl
from octavo.train.run import Progress, Run, Silent, Told, cpu_time_s
from octavo.train.schedule import Schedule
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer
from octavo.weights.save import write_json

TOKENIZER_TEXTS = 6000
OBEYED = ("format", "tools")  # what general RL is about: the other families stay in it with two of their levels
OBEYED_KNOWN = 0.98  # success from which on general RL leaves a level to chance: what it is about should be sure
LOOK = 50  # steps between two looks at whether a gate is reached
MARK_S = 30.0  # seconds between two marks of the time that all took
OTHER = 1_000_003  # from the seed of a model's first numbers to that of others
BALANCE = 0.01  # coefficient of the loss that keeps experts in use


class Stage(NamedTuple):
    """What a stage is given: the model to go on with, where its run may leave what it needs to be gone on with, and a
    digest of what is asked of it."""

    model: Decoder
    config: dict[str, Any]
    run: Path
    asked: str


class Marked:
    """What shows the suite's runs, and has the suite mark its time on the way."""

    def __init__(self, shown: Progress, suite: "Suite") -> None:
        self.shown, self.suite = shown, suite

    @contextmanager
    def begin(self, name: str, *, steps: int, done: int) -> Generator[Callable[[Told], None]]:
        """As Progress."""
        with self.shown.begin(name, steps=steps, done=done) as show:

            def told(line: Told) -> None:
                show(line)
                if time.perf_counter() - self.suite.since_s >= MARK_S:
                    self.suite.mark()

            yield told


class Suite:
    """One run of the suite in a folder."""

    def __init__(self, folder: Path, plan: Plan, *, seed: int = 0, progress: Progress | None = None) -> None:
        """Raises TrainingError where the folder has a suite of another scale or seed."""
        folder.mkdir(parents=True, exist_ok=True)
        mine, asked = folder / "mini.json", {"scale": plan.scale, "seed": seed}
        about: dict[str, Any] = _kept(mine) if mine.exists() else {**asked, "seconds": 0.0}
        if (found := {name: about.get(name) for name in asked}) != asked:
            raise TrainingError(f"{folder} has a suite with {found}, asked for is {asked}: name another folder.")
        self.folder, self.plan, self.seed, self.progress = folder, plan, seed, Marked(progress or Silent(), self)
        self.about, self.since_s, self.ranks = about, time.perf_counter(), open_ranks()
        self.about.pop("plan", None)
        self.mark()

    def end(self) -> None:
        """All is made and examined as planned: say in mini.json by which plan."""
        self.about["plan"] = _digest(self.plan)
        self.mark()

    def mark(self) -> None:
        """Keep in mini.json how long it all took so far; of a killed process, MARK_S or a step may be missing."""
        now_s = time.perf_counter()
        self.about["seconds"], self.since_s = self.about.get("seconds", 0.0) + now_s - self.since_s, now_s
        _keep(self.folder / "mini.json", self.about)

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

        share: of the planned steps, where a stage has no gate
        """
        path = Path()
        for number, reading in enumerate(self.plan.readings, 1):
            steps = reading.steps if reading.gate else max(4, round(reading.steps * share))

            def read(stage: Stage, reading: Reading = reading, steps: int = steps) -> dict[str, Any]:
                return self._read(stage, reading, steps=steps)

            words = (EDITION, self.plan.vocabulary, self.plan.readings[-1].blend, self.plan.context_tokens, self.seed)
            asked, before = _digest(words, size, share, self.plan.readings[:number]), path
            for again in range(reading.tries):
                begin = self._fresh(size, reading, again=again) if number == 1 else self._from(before, reading)
                tried = f"-again-{again}" if again else ""
                path = self.stage(f"{name}-{number}-{reading.name}{tried}", begin, read, asked=asked)
                if _kept(path / CARD)["looked_up"] >= reading.gate:
                    break
        return path

    def stage(self, name: str, begin: Callable[[], tuple[Decoder, dict[str, Any]]],
              learn: Callable[[Stage], Mapping[str, Any]], *, asked: str) -> Path:  # fmt: skip
        """A stage's folder, made where it is not there yet. learn: trains the model in place; what it returns is kept
        in stage.json, with the time that the stage took (before_seconds, before_cpu_s: in processes that were stopped),
        and with `asked`, a digest of all that decides what comes out.

        Raises TrainingError where the folder is there and something else was asked.
        """
        place, run = self.folder / name, self.folder / "runs" / name
        if not place.is_dir():
            begun_s, cpu_s = time.perf_counter(), cpu_time_s()
            model, config = begin()
            card = learn(Stage(model, config, run, asked))
            times = {"seconds": time.perf_counter() - begun_s, "cpu_s": cpu_time_s() - cpu_s}
            whole = {name: taken + card.get(f"before_{name}", 0.0) for name, taken in times.items()}
            write_model(place, model, config=config, tokenizer=self.tokenizer(),
                        more={CARD: {**card, **whole, "asked": asked}})  # fmt: skip
            for state in run.glob("state-*"):
                shutil.rmtree(state)
            self.mark()
        elif _kept(place / CARD).get("asked") != asked:
            raise TrainingError(f"{place} was made by another plan: name another folder, or remove it, its run "
                                f"{run}, and all stages after it.")  # fmt: skip
        return place

    def _fresh(self, size: Size, reading: Reading, *, again: int) -> Callable[[], tuple[Decoder, dict[str, Any]]]:
        rows = -(-self.tokenizer().vocab_size // 64) * 64
        config = size.config(vocabulary=rows, context_tokens=self.plan.context_tokens, rope_theta=reading.theta)
        return lambda: (fresh(config, seed=self.seed + OTHER * again), config)

    def _from(self, path: Path, reading: Reading) -> Callable[[], tuple[Decoder, dict[str, Any]]]:
        return lambda: reread(path, context_tokens=self.plan.context_tokens, theta=reading.theta)

    def _read(self, stage: Stage, reading: Reading, *, steps: int) -> dict[str, Any]:
        rate = Schedule(shape="wsd", steps=steps, warmup=reading.warmup, decay=reading.decay, least=reading.least)
        balance = BALANCE if stage.model.config.moe else 0.0
        trainer = Trainer(stage.model, CrossEntropy(), muon(reading.rate), rate=rate, balance=balance, ranks=self.ranks)
        run = Run(stage.run, trainer, settings={"steps": steps, "asked": stage.asked}, progress=self.progress)
        before = {f"before_{name}": sum(getattr(told, name) for told in run.told) for name in ("seconds", "cpu_s")}
        words = self.tokenizer()

        def reached(step: int) -> bool:
            return reading.gate > 0 and step % LOOK == 0 < step and looked_up(stage.model, words) >= reading.gate

        run.go(reader(reading, words, seed=self.seed, device=self.ranks.device), steps=steps, until=reached)
        last = run.told[-1]
        card = {"tokens": last.tokens, "steps": last.step, "loss": last.loss, **before}
        return {**card, "looked_up": looked_up(stage.model, words)}

    def teacher(self) -> Path:
        """Pre-training, then the four stages of post-training; the last one's folder."""
        base = self.pretrain("teacher", self.plan.teacher)
        return self.post(base)

    def post(self, base: Path) -> Path:
        """Cold start, reasoning RL, fusion of both modes, general RL."""
        plan, tasks = self.plan, self._tasks({**self.plan.levels, **self.plan.tools})
        cold = coldstart.run(coldstart.Settings(
            model=str(base), out=self._at("teacher-cold"), tasks=tasks, count=plan.cold_samples, lesson=plan.cold,
            gate=plan.cold_gate, longest=plan.longest, often=dict(plan.cold_often), seed=self.seed),
            progress=self.progress)  # fmt: skip
        thinker = rl.run(self._rl(cold, "teacher-rl", tasks, steps=plan.rl_steps), progress=self.progress)
        fused = fuse.run(fuse.Settings(
            model=str(thinker), out=self._at("teacher-fused"), tasks=tasks, thought=plan.fuse_thought,
            direct=plan.fuse_direct, turns=plan.fuse_turns, cut=plan.fuse_cut, longest=plan.longest,
            often=dict(plan.fuse_often), direct_often=dict(plan.direct_often), lesson=plan.fuse, seed=self.seed,
        ), progress=self.progress)  # fmt: skip
        few = {name: some if TASKS[name].shows in OBEYED else sorted({some[len(some) // 2], some[-1]})
               for name, some in tasks.items()}  # fmt: skip
        return general_rl.run(general_rl.Settings(
            model=str(fused), out=self._at("teacher"), tasks={**few, "switches": [3]}, steps=plan.general_steps,
            queries=plan.rl_queries, replies=plan.rl_replies, updates=plan.rl_updates,
            longest=plan.longest, known=OBEYED_KNOWN, bf16=True, seed=self.seed), progress=self.progress)  # fmt: skip

    def student(self, teacher: Path) -> dict[str, Path]:
        """Strong to weak: the teacher's replies, then from there on-policy distillation, and beside it RL."""
        plan = self.plan
        base = self.pretrain("student", plan.student, share=plan.student_share)
        begun = self._distilled("student-off", teacher, base, off=plan.off_steps, on=0)
        alone = self._rl(begun, "student-rl", self._tasks(plan.levels), steps=plan.student_rl_steps)
        beside = rl.run(alone, progress=self.progress)
        return {"off": begun, "rl": beside,
                "on": self._distilled("student", teacher, begun, off=0, on=plan.distill_steps)}  # fmt: skip

    def experts(self, teacher: Path) -> list[Path]:
        """A sparse model, pre-trained, then distilled both ways; none where none is planned."""
        plan = self.plan
        if plan.experts is None:
            return []
        base = self.pretrain("experts", plan.experts, share=plan.experts_share)
        return [self._distilled("experts", teacher, base, off=plan.off_steps, on=plan.distill_steps)]

    def _distilled(self, name: str, teacher: Path, before: Path, *, off: int, on: int) -> Path:
        plan = self.plan
        tasks = self._tasks({**plan.levels, **plan.tools} if plan.student_tools else plan.levels)
        return distill.run(distill.Settings(
            teacher=str(teacher), model=str(before), out=self._at(name), tasks=tasks, off_steps=off,
            off_gate=plan.off_gate, off_how=plan.cold.how, on_steps=on, how=plan.distill_how,
            queries=plan.distill_queries, updates=plan.distill_updates, reverse=plan.distill_reverse,
            replies=plan.off_replies if off else 0, longest=plan.longest,
            on_longest=plan.distill_longest, bf16=True, seed=self.seed,
        ), progress=self.progress)  # fmt: skip

    def _rl(self, before: Path, name: str, tasks: dict[str, list[int]], *, steps: int) -> rl.Settings:
        plan = self.plan
        return rl.Settings(model=str(before), out=self._at(name), tasks=tasks, steps=steps, seed=self.seed,
                           queries=plan.rl_queries, replies=plan.rl_replies, updates=plan.rl_updates,
                           longest=plan.longest, bf16=True)  # fmt: skip

    @staticmethod
    def _tasks(levels: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        return {name: list(some) for name, some in levels.items()}

    def examined(self, path: Path) -> dict[str, Any]:
        """The exam of a stage's model, taken once; again where the model or what is asked is another one."""
        place, plan = self.folder / "exams" / f"{path.name}.json", self.plan
        weights = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        asked = _digest(weights, plan.tested, plan.longest, plan.levels, plan.tools)
        if not place.exists() or _kept(place).get("asked") != asked:
            own = OwnChat(read_model(path)[0], tokenizer=self.tokenizer(), form=Qwen3())
            taken = Exam(own, count=self.plan.tested, longest=self.plan.longest)
            found = taken.families({**self.plan.levels, **self.plan.tools})
            if path.name in ("teacher-rl", "teacher"):  # before and after it has seen thinking that was cut
                curves = {name: self.plan.levels[name] for name in self.plan.levels if TASKS[name].shows != "format"}
                found["budgets"] = taken.budgets(curves)
            if path.name.startswith("student"):
                found["passes"] = taken.passes(self.plan.levels)
            place.parent.mkdir(exist_ok=True)
            _keep(place, {**found, "asked": asked})
            self.mark()
        return _kept(place)

    def _at(self, name: str) -> str:
        return str(self.folder / name)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _kept(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _keep(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file that is there whole or as it was before, whenever the process is killed."""
    part = path.with_suffix(".part")
    write_json(part, value)
    part.replace(path)

"""Strong-to-weak distillation: first the teacher's own right replies in both modes, then the student's, judged by it.

Off-policy: replies that a teacher sampled and that are right are learnt as they stand. On-policy: the student replies,
and at each of its tokens is pulled towards the teacher's whole distribution: KL(student || teacher).
Source: Qwen3 report, arXiv:2505.09388, section 4.5; GKD, arXiv:2306.13649.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from octavo.chat.loading import open_text
from octavo.chat.local import LocalChat
from octavo.core.errors import ConfigError, TrainingError
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Trajectory
from octavo.tasks import TASKS
from octavo.train.algorithms import TowardsTeacher
from octavo.train.asked import CARD, asked, made
from octavo.train.batch import Batch, batches_of
from octavo.train.lessons import problem_of
from octavo.train.measure import follows
from octavo.train.models import read_model, write_model
from octavo.train.optimiser import Optimisation
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.ranks import Ranks
from octavo.train.recipes.rl import check_levels
from octavo.train.report import report
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule
from octavo.train.step import Algorithm, CrossEntropy
from octavo.train.supervised import shuffled
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint

MODES = (Thinking(mode="on"), Thinking(mode="off"))


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe. Teacher and student share a tokenizer."""

    teacher: Annotated[str, Meta(description="folder of the model that is learnt from")]
    model: Annotated[str, Meta(description="folder of the student to begin with")]
    out: Annotated[str, Meta(description="folder for the student; the runs are kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    replies: Annotated[int, Meta(ge=0, description="of the teacher's, right or wrong; 0: on-policy only")] = 4000
    off_steps: Annotated[int, Meta(ge=0, description="steps of learning the teacher's right replies")] = 200
    off_queries: Annotated[int, Meta(ge=1, description="of those replies, learnt at a step")] = 96
    off_how: Optimisation = Optimisation(rate=2e-3, weight_decay=0.0, betas=(0.9, 0.98))
    on_steps: Annotated[int, Meta(ge=0, description="steps of on-policy distillation")] = 60
    queries: Annotated[int, Meta(ge=1, description="of the student's replies, learnt at an on-policy step")] = 256
    each: Annotated[int, Meta(ge=1, description="of these, to one problem, whose prompt is computed once")] = 4
    longest: Annotated[int, Meta(ge=1, description="tokens of a reply")] = 256
    tokens: Annotated[int, Meta(ge=1, description="tokens of one forward pass")] = 16384
    warmup: Annotated[int, Meta(ge=0)] = 5
    how: Optimisation = Optimisation(method="muon", rate=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = False
    seed: Annotated[int, Meta(ge=0)] = 0


class Pair(Struct, frozen=True):
    """Both models, as they are asked, and who learns together."""

    teacher: OwnChat
    student: OwnChat
    ranks: Ranks


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the student's folder. Raises ConfigError for what cannot be, TrainingError for a teacher never right."""
    check_levels(settings.tasks)
    if settings.queries % settings.each:
        raise ConfigError(f"queries: {settings.queries} replies are no multiple of each={settings.each} to a problem.")
    out = Path(settings.out)
    wanted = asked(settings, recipe="distill")
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(Path(settings.teacher)))
    student, config = read_model(Path(settings.model))
    ranks = open_ranks()
    taught = OwnChat(read_model(Path(settings.teacher))[0].to(ranks.device), tokenizer=tokenizer, form=form)
    cards = list[dict[str, Any]]()
    on: tuple[str, Algorithm, int, Optimisation] = ("on", TowardsTeacher(), settings.on_steps, settings.how)
    stages = ("off", CrossEntropy(), settings.off_steps, settings.off_how), on
    for name, algorithm, steps, how in [stage for stage in stages if stage[2]]:
        pair = Pair(taught, OwnChat(student.to(ranks.device), tokenizer=tokenizer, form=form, ranks=ranks), ranks)
        trainer = learner(settings, pair, algorithm, how=how, steps=steps)
        going = Run(out.with_name(f"{out.name}.{name}"), trainer, settings=wanted | {"stage": name}, progress=progress)
        if trainer.step < steps:
            going.go((off_policy if name == "off" else on_policy)(settings, pair), steps=steps)
        cards.append(report(going, recipe=f"distill {name}"))
        student = trainer.whole_model()
    if ranks.rank == 0:
        card = {CARD: {"settings": wanted, "stages": cards}}
        write_model(out, student, config=config, tokenizer=tokenizer, more=card)
    ranks.wait()
    return out


def learner(settings: Settings, pair: Pair, algorithm: Algorithm, *, how: Optimisation, steps: int) -> Trainer:
    """The student's trainer."""
    scale = Schedule(shape="linear", steps=steps, warmup=settings.warmup, least=0.1)
    return Trainer(pair.student.whole.learning, algorithm, how, rate=scale,
                   bf16=settings.bf16, teacher=pair.teacher.model, ranks=pair.ranks)  # fmt: skip


def off_policy(settings: Settings, pair: Pair) -> Callable[[int], list[Batch]]:
    """step -> some of the teacher's right replies, all of them once before any comes again."""
    draw = random.Random(f"{settings.seed} off")
    done = replies(settings, pair.teacher.chat, draw, count=settings.replies, ranks=pair.ranks)
    if not (samples := [to_sample(one) for one in done if good(pair.teacher, one)]):
        raise TrainingError("the teacher gave no right reply: give it easier levels, or another teacher.")

    def batches(step: int) -> list[Batch]:
        chosen = shuffled(samples, settings.off_queries, step=step, seed=settings.seed)
        return batches_of(pair.ranks.share(chosen), tokens=settings.tokens, device=pair.ranks.device)

    return batches


def good(teacher: OwnChat, one: Trajectory) -> bool:
    """Rejection sampling: right, ended, and in the mode that was asked for."""
    return one.score.value == 1 and not one.truncated and follows(teacher.chat, one)


def on_policy(settings: Settings, pair: Pair) -> Callable[[int], list[Batch]]:
    """step -> what the student, as it now is, says to new problems."""

    def batches(step: int) -> list[Batch]:
        draw, each = random.Random(f"{settings.seed} on {step}"), settings.each
        done = replies(settings, pair.student.refresh(), draw, count=settings.queries, each=each, ranks=pair.ranks)
        groups = [done[start : start + each] for start in range(0, len(done), each)]
        samples = [to_sample(one) for group in pair.ranks.share(groups) for one in group]
        return batches_of(samples, tokens=settings.tokens, device=pair.ranks.device, share=True)

    return batches


def replies(settings: Settings, chat: LocalChat, draw: random.Random, *, count: int, ranks: Ranks,
            each: int = 1) -> list[Trajectory]:  # fmt: skip
    """So many, `each` to a new problem; every rank is given all."""
    how = How(replies=each, sampling=Sampling(max_tokens=settings.longest), seed=settings.seed)
    problems = [replace(problem_of(draw, settings.tasks), thinking=draw.choice(MODES)) for _ in range(count // each)]
    return rollout(chat, problems, tasks=TASKS, how=how, ranks=ranks)

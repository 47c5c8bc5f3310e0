"""Strong-to-weak distillation: first the teacher's own right replies in both modes, then the student's, judged by it.

Off-policy: replies that a teacher sampled and that are right are learnt as they stand. On-policy: the student replies,
and at each of its tokens is pulled towards the teacher's whole distribution.
Source: Qwen3 report, arXiv:2505.09388, section 4.5; GKD, arXiv:2306.13649.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.errors import ConfigError
from octavo.models import read_config
from octavo.text.tokenizer import Tokenizer
from octavo.train.algorithms import TowardsTeacher
from octavo.train.asked import CARD, asked, made
from octavo.train.gate import Gate, solved
from octavo.train.models import check_format, read_model, write_model
from octavo.train.optimiser import Optimisation
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.pupil import Pupil
from octavo.train.recipes.rl import Share, check_levels
from octavo.train.report import report
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule
from octavo.train.step import Algorithm, CrossEntropy
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe. Teacher and student share a tokenizer."""

    teacher: Annotated[str, Meta(description="folder of the model that is learnt from")]
    model: Annotated[str, Meta(description="folder of the student to begin with")]
    out: Annotated[str, Meta(description="folder for the student; the runs are kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    thought: Annotated[Share, Meta(description="of the problems, asked with thinking; the others without")] = 0.8
    replies: Annotated[int, Meta(ge=0, description="of the teacher's, right or wrong; 0: on-policy only")] = 4000
    off_steps: Annotated[int, Meta(ge=0, description="steps of learning the teacher's right replies")] = 200
    off_queries: Annotated[int, Meta(ge=1, description="of those replies, learnt at a step")] = 96
    off_how: Optimisation = Optimisation(rate=2e-3, weight_decay=0.0, betas=(0.9, 0.98))
    off_gate: Gate = Gate()
    on_steps: Annotated[int, Meta(ge=0, description="steps of on-policy distillation")] = 80
    queries: Annotated[int, Meta(ge=1, description="of the student's replies, learnt at an on-policy step")] = 40
    each: Annotated[int, Meta(ge=1, description="of these, to one problem, whose prompt is computed once")] = 1
    updates: Annotated[int, Meta(ge=1, description="on-policy steps whose replies are sampled at once")] = 1
    longest: Annotated[int, Meta(ge=1, description="tokens of a reply")] = 256
    on_longest: Annotated[int | None, Meta(description="on-policy, where a reply need not end; null: longest")] = None
    tokens: Annotated[int, Meta(ge=1, description="tokens of one forward pass")] = 16384
    reverse: Annotated[bool, Meta(description="KL(student || teacher) on-policy, else KL(teacher || student)")] = True
    warmup: Annotated[int, Meta(ge=0)] = 5
    how: Optimisation = Optimisation(method="muon", rate=1e-3, others=6.0, betas=(0.9, 0.98), weight_decay=0.05)
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = False
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the student's folder. Raises ConfigError for what cannot be, TrainingError for a teacher never right."""
    check_levels(settings.tasks)
    off_steps = settings.off_steps if settings.replies else 0
    if not (off_steps or settings.on_steps):
        raise ConfigError("nothing would be learnt: give on_steps, or off_steps and replies, of which one is 0 here.")
    if settings.on_steps and settings.queries % settings.each:
        raise ConfigError(f"queries: {settings.queries} replies are no multiple of each={settings.each} to a problem.")
    if settings.on_steps % settings.updates:
        raise ConfigError(f"on_steps: {settings.on_steps} is no multiple of updates={settings.updates}: give one.")
    if settings.on_longest is not None and not 1 <= settings.on_longest <= settings.longest:
        raise ConfigError(f"on_longest={settings.on_longest} is to be from 1 to longest={settings.longest}.")
    out = Path(settings.out)
    wanted = asked(settings, recipe="distill")
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(Path(settings.teacher)))
    check_tokens(settings, tokenizer)
    student, config = read_model(Path(settings.model))
    check_format(out, form, tokenizer, config=config)
    ranks = open_ranks()
    taught = OwnChat(read_model(Path(settings.teacher))[0].to(ranks.device), tokenizer=tokenizer, form=form)
    cards = list[dict[str, Any]]()
    towards = TowardsTeacher(reverse=settings.reverse)
    on: tuple[str, Algorithm, int, Optimisation] = ("on", towards, settings.on_steps, settings.how)
    longest = {"off": settings.longest, "on": settings.on_longest or settings.longest}
    stages = ("off", CrossEntropy(), off_steps, settings.off_how), on
    for name, algorithm, steps, how in [stage for stage in stages if stage[2]]:
        learns = OwnChat(student.to(ranks.device), tokenizer=tokenizer, form=form, ranks=ranks)
        pupil = Pupil(teacher=taught, student=learns, ranks=ranks, tasks=settings.tasks, thought=settings.thought,
                      longest=longest[name], tokens=settings.tokens, seed=settings.seed)  # fmt: skip
        told, gate = (True, settings.off_gate) if name == "off" else (False, Gate())
        rate = Schedule(shape="linear", steps=steps, warmup=settings.warmup, least=0.1, again=gate.again)
        trainer = Trainer(learns.whole.learning, algorithm, how, rate=rate, bf16=settings.bf16, teacher=taught.model,
                          ranks=ranks)  # fmt: skip
        going = Run(out.with_name(f"{out.name}.{name}"), trainer, settings=wanted | {"stage": name}, progress=progress)
        source = (pupil.told(settings.replies, queries=settings.off_queries) if told
                  else pupil.tries(settings.queries, each=settings.each, updates=settings.updates))  # fmt: skip
        success = partial(solved, learns, settings.tasks, longest=settings.longest)
        gate.go(going, source, steps=steps, success=success, together=1 if told else settings.updates)
        cards.append(report(going, recipe=f"distill {name}"))
        student = trainer.whole_model()
    if ranks.rank == 0:
        card = {CARD: {"settings": wanted, "stages": cards}}
        write_model(out, student, config=config, tokenizer=tokenizer, more=card, ends=form.markers(tokenizer).end)
    ranks.wait()
    return out


def check_tokens(settings: Settings, teachers: Tokenizer) -> None:
    """Raise ConfigError where teacher and student do not mean the same by the same token."""
    student, teacher = (open_checkpoint(Path(path)) for path in (settings.model, settings.teacher))
    if open_text(student)[0].digest() != teachers.digest():
        raise ConfigError(f"teacher and student have different tokenizers ({teacher.name}, {student.name}): a student "
                          f"learns from a teacher of its own family.")  # fmt: skip
    rows = [read_config(one.config).vocab_size for one in (teacher, student)]
    if rows[0] != rows[1]:
        raise ConfigError(f"{teacher.name} has rows for {rows[0]} tokens, {student.name} for {rows[1]}: their "
                          f"distributions cannot be compared. Give them as many rows.")  # fmt: skip

"""The whole recipe in miniature, from nothing.

Tokenizer, three stages of pre-training, cold start, reasoning RL, fusion of both modes, general RL; then a student by
off-policy and on-policy distillation, and by RL beside it; a third model of experts, unless experts=false;
their exams; and teacher and student in bf16 with their cards.

Every stage leaves its model in a folder of its own. What is there is not made again, so a run that was stopped at any
moment is gone on with by the same command.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from octavo.train.mini.card import ship
from octavo.train.mini.plan import Scale, plan
from octavo.train.mini.suite import Suite
from octavo.train.run import Progress


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    out: Annotated[str, Meta(description="folder for all stages")] = "mini"
    scale: Annotated[Scale, Meta(description="smoke: seconds; short: meant for 90 minutes on 2 cores, six families; "
                                             "wide: ten, as the shipped models; long: hours")] = "short"  # fmt: skip
    experts: Annotated[bool, Meta(description="make the sparse model too")] = True
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the folder."""
    planned = plan(settings.scale, experts=settings.experts)
    suite = Suite(Path(settings.out), planned, seed=settings.seed, progress=progress)
    teacher = suite.teacher()
    others = [*suite.student(teacher).values(), *suite.experts(teacher)]
    for name in ("teacher-cold", "teacher-rl", "teacher-fused", "teacher"):
        suite.examined(suite.folder / name)
    for path in others:
        suite.examined(path)
    suite.end()
    ship(suite.folder)
    return suite.folder

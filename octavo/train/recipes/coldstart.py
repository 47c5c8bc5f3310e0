"""The cold start: few thinking conversations from the tasks' own workings, few steps, on purpose.

The model learns the chat format and to think before it answers; what it does not know yet is left to RL, which finds no
way to longer thinking where the cold start has shown only short one. How few are enough differs from model to model:
the same steps end near nothing or near all. So success may decide. Source: Qwen3 report, arXiv:2505.09388, 4.1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from octavo.chat.loading import open_text
from octavo.core.sampling import Sampling, Thinking
from octavo.models.decoder import Decoder
from octavo.tasks import TASKS
from octavo.train.asked import asked, made
from octavo.train.conversations import Writer
from octavo.train.lessons import Often, cold_start
from octavo.train.own import OwnChat
from octavo.train.ranks import Ranks
from octavo.train.recipes.rl import check_levels
from octavo.train.rollout import How, rollout
from octavo.train.run import Progress
from octavo.train.supervised import Gate, Lesson, learn_checkpoint
from octavo.weights.checkpoint import open_checkpoint

ASKED = 40  # validation problems of each task


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    model: Annotated[str, Meta(description="folder of the pre-trained model")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    count: Annotated[int, Meta(ge=1, description="conversations")] = 1000
    often: Annotated[dict[str, Often], Meta(description="JSON: task -> how often it comes; the others: 1")] = {}
    lesson: Lesson = Lesson(steps=60)
    gate: Annotated[float, Meta(ge=0, le=1, description="success that is enough; 0: lesson.steps alone count")] = 0.0
    again: Annotated[int, Meta(ge=1, description="steps of each round that follows until there is enough")] = 10
    rounds: Annotated[int, Meta(ge=0, description="that may follow")] = 8
    longest: Annotated[int, Meta(ge=1, description="tokens of a reply that success is measured with")] = 320
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder. Raises ConfigError for tasks or levels that there are not."""
    check_levels(settings.tasks, often=settings.often)
    before, out = Path(settings.model), Path(settings.out)
    wanted = asked(settings, recipe="coldstart")
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(before))
    samples = cold_start(Writer(form, tokenizer), settings.tasks, seed=f"{settings.seed} cold", count=settings.count,
                         often=settings.often)  # fmt: skip

    def success(model: Decoder, ranks: Ranks) -> float:
        own = OwnChat(model, tokenizer=tokenizer, form=form, ranks=ranks)
        return solved(own, settings.tasks, longest=settings.longest, ranks=ranks)

    gate = Gate(settings.gate, success, settings.again, settings.rounds) if settings.gate else None
    return learn_checkpoint(before, out, samples, lesson=settings.lesson, recipe="coldstart", settings=wanted,
                            seed=settings.seed, progress=progress, gate=gate)  # fmt: skip


def solved(own: OwnChat, tasks: Mapping[str, Sequence[int]], *, longest: int, ranks: Ranks) -> float:
    """Share of validation problems, as many of each task, that are answered right with thinking, greedily."""
    how = How(sampling=Sampling(temperature=0, max_tokens=longest))
    posed = [
        replace(TASKS[name].problem(i, level=levels[i % len(levels)], split="validation"), thinking=Thinking(mode="on"))
        for name, levels in sorted(tasks.items())
        for i in range(ASKED)
    ]
    return fmean(one.score.value for one in rollout(own.refresh(), posed, tasks=TASKS, how=how, ranks=ranks))

"""The cold start: few thinking conversations from the tasks' own workings, few steps, on purpose.

The model learns the chat format and to think before it answers; what it does not know yet is left to RL, which finds no
way to longer thinking where the cold start has shown only short one. How few are enough differs from model to model:
the same steps end near nothing or near all. So success may decide. Source: Qwen3 report, arXiv:2505.09388, 4.1.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.train.asked import asked, made
from octavo.train.conversations import Writer
from octavo.train.gate import Gate, solved
from octavo.train.lessons import Often, cold_start
from octavo.train.recipes.rl import check_levels
from octavo.train.run import Progress
from octavo.train.supervised import Lesson, learn_checkpoint
from octavo.weights.checkpoint import open_checkpoint


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    model: Annotated[str, Meta(description="folder of the pre-trained model")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    count: Annotated[int, Meta(ge=1, description="conversations")] = 1000
    often: Annotated[dict[str, Often], Meta(description="JSON: task -> how often it comes; the others: 1")] = {}
    lesson: Lesson = Lesson(steps=60)
    gate: Gate = Gate()
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
    return learn_checkpoint(before, out, samples, lesson=settings.lesson, recipe="coldstart", settings=wanted,
                            seed=settings.seed, progress=progress, gate=settings.gate,
                            success=lambda own: solved(own, settings.tasks, longest=settings.longest))  # fmt: skip

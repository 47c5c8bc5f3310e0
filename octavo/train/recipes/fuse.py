"""Thinking-mode fusion: one model for both modes, by continued SFT on what the RL model itself has found.

Thinking replies are the model's own, of which only right ones are kept (rejection sampling); problems that had none are
asked anew, so that hard levels do not become rare. Replies without thinking are the tasks' gold answers behind an empty
block. Flags are drawn at random, in a system message too; in conversations of several turns the last flag counts. Some
thinking is cut by the early-stop text, as a budget would cut it.
Source: Qwen3 report, arXiv:2505.09388, section 4.3.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from octavo.chat.loading import open_text
from octavo.core.errors import TrainingError
from octavo.core.sample import Sample
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem, Trajectory
from octavo.tasks import TASKS
from octavo.train.asked import asked, made
from octavo.train.conversations import Writer
from octavo.train.lessons import THINK, Often, cut_short, flagged, problem_of, several_turns, without_thinking
from octavo.train.models import read_model
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.pupil import good
from octavo.train.ranks import Ranks
from octavo.train.recipes.rl import check_levels
from octavo.train.rollout import How, rollout
from octavo.train.run import Progress
from octavo.train.supervised import Lesson, learn_checkpoint
from octavo.weights.checkpoint import open_checkpoint

ROUNDS = 3  # of asking, until there are enough right replies


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    model: Annotated[str, Meta(description="folder of the model after RL")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    thought: Annotated[int, Meta(ge=1, description="right replies with thinking that are sought")] = 3000
    direct: Annotated[int, Meta(ge=1, description="conversations without thinking")] = 3000
    turns: Annotated[int, Meta(ge=0, description="conversations of several turns, with flags")] = 1500
    often: Annotated[dict[str, Often], Meta(description="JSON: task -> weight among those with thinking, else 1")] = {}
    direct_often: Annotated[dict[str, Often], Meta(description="JSON: task -> weight among those without, else 1")] = {}
    cut: Annotated[int, Meta(ge=0, description="replies whose thinking is cut, of which the answer is learnt")] = 1500
    longest: Annotated[int, Meta(ge=1, description="tokens of a sampled reply")] = 320
    lesson: Lesson = Lesson(steps=250)
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder. Raises TrainingError where the model never thinks its way to a right answer."""
    check_levels(settings.tasks, often=settings.often)
    check_levels(settings.tasks, often=settings.direct_often, setting="direct_often")
    before, out = Path(settings.model), Path(settings.out)
    wanted = asked(settings, recipe="fuse")
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(before))
    ranks, draw = open_ranks(), random.Random(f"{settings.seed} fuse")
    own = OwnChat(read_model(before)[0].to(ranks.device), tokenizer=tokenizer, form=form)
    posed = [problem_of(draw, settings.tasks, often=settings.often) for _ in range(settings.thought)]
    thought = right(own, posed, settings, draw=draw, ranks=ranks)
    if not thought:
        raise TrainingError("the model gave no right reply with thinking: nothing of it can be kept. Train it further.")
    writer = Writer(form, tokenizer)
    samples = lessons(writer, thought, settings, draw=draw)
    alone = [one for one in thought if len(one.turns) == 1 and one.turns[0].reason == "stop"]
    lengths = [one.turns[0].usage.thinking_tokens for one in alone]  # the longer, the likelier a budget cuts it
    for one in draw.choices(alone, lengths, k=settings.cut) if any(lengths) else ():
        samples.append(cut_short(form.markers(tokenizer), one, draw))
    kept = {**wanted, "kept": len(thought)}
    return learn_checkpoint(before, out, samples, lesson=settings.lesson, recipe="fuse", settings=kept,
                            seed=settings.seed, progress=progress)  # fmt: skip


def right(own: OwnChat, problems: Sequence[Problem], settings: Settings, *, draw: random.Random,
          ranks: Ranks) -> list[Trajectory]:  # fmt: skip
    """The model's own replies, thinking on: those that are right, ended, and thought. Where there is none, problems of
    the same tasks and levels are asked, for some rounds."""
    chat, kept = own.refresh(), list[Trajectory]()
    for number in range(ROUNDS):
        if not problems:
            break
        how = How(sampling=Sampling(max_tokens=settings.longest), seed=settings.seed + number)
        posed = [replace(problem, thinking=Thinking(mode="on")) for problem in problems]
        wrong = list[Problem]()
        for one in rollout(chat, posed, tasks=TASKS, how=how, ranks=ranks):
            kept.append(one) if good(own, one) else wrong.append(one.problem)
        problems = [TASKS[one.task].problem(draw.getrandbits(40), level=one.level, split="train") for one in wrong]
    return kept


def lessons(writer: Writer, thought: Sequence[Trajectory], settings: Settings, *, draw: random.Random) -> list[Sample]:
    """Thinking with and without a flag, no thinking, and several turns of both."""
    samples = list[Sample]()
    for one in thought:
        question, said = flagged(one.problem, draw.choice((THINK, ""))), list(one.turns)
        answers = TASKS[one.problem.task].golden(one.problem)[1:]  # a right reply made the right call, so got these
        talk = [*question, said[0].message, *answers, *(turn.message for turn in said[1:])]
        samples += writer.replies(talk, tools=one.problem.tools, name=one.problem.id)
    for _ in range(settings.direct):
        samples += without_thinking(writer, problem_of(draw, settings.tasks, often=settings.direct_often), draw)
    plain = [one for one in thought if len(one.turns) == 1 and not one.problem.tools and len(one.problem.messages) == 1]
    for _ in range(settings.turns if plain else 0):
        turns = draw.choices(plain, k=draw.randint(2, 3))
        samples += several_turns(writer, [(one.problem, one.turns[0].message.thinking or "") for one in turns], draw)
    return samples

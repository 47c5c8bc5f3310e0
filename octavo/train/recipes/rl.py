"""Reasoning RL: problems with checkable answers, and groups of replies by the engine that shares the weights.

What is learnt at each step: how much better a reply was than the others to the same problem. Groups that are all right
or all wrong teach nothing and are asked anew; levels come and go as they are solved. GRPO, DAPO's or GSPO's clipping.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from octavo.chat.loading import open_text
from octavo.core.errors import ConfigError
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem
from octavo.tasks import TASKS
from octavo.train.asked import CARD, asked, made
from octavo.train.curriculum import Curriculum, Level
from octavo.train.far import FarChat, Reload, Sampled
from octavo.train.lora import Lora, base_name, begin_lora, end_lora
from octavo.train.models import check_format, read_model
from octavo.train.optimiser import Optimisation
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.policy import Asking, Policy, Pose, Reward
from octavo.train.report import report
from octavo.train.rollout import How
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint

RewardOf = Callable[[Sampled], Reward]  # what is good may depend on how the chat was to think
Mode = Literal["on", "off", "auto"]
Share = Annotated[float, Meta(ge=0, le=1)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe. The rate was measured on models of some million parameters: 5e-4 without warm-up collapses."""

    model: Annotated[str, Meta(description="folder of the model to begin with")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    tasks: Annotated[dict[str, list[int]], Meta(min_length=1, description="JSON: task -> its levels")]
    clipping: Annotated[Literal["grpo", "dapo", "gspo"], Meta(description="how far a step may go")] = "dapo"
    mode: Annotated[Mode, Meta(description="thinking")] = "on"
    queries: Annotated[int, Meta(ge=1, description="problems of a step")] = 48
    updates: Annotated[int, Meta(ge=1, description="of the weights from a step's replies, which are divided")] = 1
    replies: Annotated[int, Meta(ge=2, description="to each problem")] = 12
    longest: Annotated[int, Meta(ge=1, description="tokens of a reply")] = 256
    steps: Annotated[int, Meta(ge=1, description="samplings, of `updates` updates each")] = 60
    warmup: Annotated[int, Meta(ge=0)] = 5
    decay: Annotated[Share, Meta(description="last share of the steps, over which the rate falls to a tenth")] = 0.3
    goal: Annotated[Share, Meta(description="mean success over all levels that ends it; 0: steps alone count")] = 0.98
    known: Annotated[Share, Meta(description="success from which on a level comes by chance only")] = 0.9
    tokens: Annotated[int, Meta(ge=1, description="tokens of one forward pass")] = 16384
    how: Optimisation = Optimisation(rate=2e-4, clip=0.5, weight_decay=0.0, betas=(0.9, 0.98))
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = False
    exact: Annotated[bool, Meta(description="rollouts in the trainer's own precision: slower")] = False
    servers: Annotated[list[str], Meta(description="JSON: URLs ending in /v1#NAME that reply instead")] = []
    reload: Reload = Reload()
    lora: Lora = Lora()
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder. Raises ConfigError for tasks or levels that there are not."""
    pose = posed(settings.mode)
    return learn(settings, recipe="rl", pose=pose, reward=lambda own: lambda one: one.score.value, progress=progress)


def posed(mode: Mode) -> Pose:
    """Problems to learn from, asked in a mode."""

    def pose(draw: random.Random, level: Level) -> Problem:
        problem = TASKS[level[0]].problem(draw.getrandbits(40), level=level[1], split="train")
        return replace(problem, thinking=Thinking(mode=mode))

    return pose


def learn(settings: Settings, *, recipe: str, pose: Pose, reward: RewardOf,
          progress: Progress | None) -> Path:  # fmt: skip
    """A run of RL, whatever is asked and whatever is good."""
    check_levels(settings.tasks)
    check_updates(settings)
    out = Path(settings.out)
    wanted = asked(settings, recipe=recipe)
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(Path(settings.model)))
    model, config = read_model(Path(settings.model))
    check_format(out, form, tokenizer, config=config)
    ranks = open_ranks()
    model.to(ranks.device)
    lora = begin_lora(model, settings.lora, seed=settings.seed, ranks=ranks)
    own: Sampled
    if settings.servers:
        own = FarChat(model, tokenizer=tokenizer, form=form, config=config, servers=settings.servers,
                      folder=out.with_name(f"{out.name}.served"), reload=settings.reload, ranks=ranks)  # fmt: skip
    else:
        own = OwnChat(model, tokenizer=tokenizer, form=form, exact=settings.exact, ranks=ranks)
    how = How(replies=settings.replies, sampling=Sampling(max_tokens=settings.longest), seed=settings.seed)
    updates = settings.updates
    asking = Asking(queries=settings.queries, how=how, tokens=settings.tokens, updates=updates)
    curriculum = Curriculum(settings.tasks, known=settings.known)
    policy = Policy(own, curriculum, clipping=settings.clipping, asking=asking, tasks=TASKS, pose=pose,
                    reward=reward(own), ranks=ranks)  # fmt: skip
    rate = Schedule(
        shape="wsd", steps=settings.steps * updates, warmup=settings.warmup, decay=settings.decay, least=0.1
    )
    trainer = Trainer(model, policy, settings.how, bf16=settings.bf16, rate=rate, ranks=ranks)
    going = Run(out.with_name(f"{out.name}.run"), trainer, settings=wanted, progress=progress)

    def reached(step: int) -> bool:
        curriculum.follow([line.figures for line in going.told])
        return curriculum.success >= settings.goal > 0

    going.go(lambda step: policy.batches(step, going.told), steps=settings.steps * updates, until=reached,
             together=updates)  # fmt: skip
    told = report(going, recipe=recipe)
    adapter = end_lora(trainer, lora, folder=going.folder, base=base_name(config, Path(settings.model)))
    trainer.write(out, config=config, tokenizer=tokenizer, more={CARD: told}, adapter=adapter,
                  ends=form.markers(tokenizer).end)  # fmt: skip
    return out


def check_updates(settings: Settings) -> None:
    """Raise ConfigError where a step's replies cannot be divided, where GSPO could not tell a change from rounding, and
    where servers would be given changes of low rank, which they do not know."""
    if settings.servers and (settings.lora.rank or settings.lora.begin):
        raise ConfigError("servers are given whole models: leave servers out, or lora.")
    if settings.updates > settings.queries:
        raise ConfigError(f"updates: {settings.updates} of {settings.queries} queries, each wants one: lower it.")
    if settings.clipping == "gspo" and settings.bf16 and settings.updates > 1:
        raise ConfigError("clipping=gspo bounds changes at 3e-4, which bf16 rounds away: leave bf16 or updates out.")


def check_levels(tasks: Mapping[str, list[int]], *, often: Mapping[str, float] = {}, setting: str = "often") -> None:
    """Raise ConfigError for a task or a level that there is not, and where `often`, a `setting`, names none of them."""
    if strange := sorted(often.keys() - tasks.keys()):
        raise ConfigError(f"{setting}: {strange[0]!r:.80} is none of the tasks: {', '.join(sorted(tasks))}.")
    for name, levels in tasks.items():
        if name not in TASKS:
            raise ConfigError(f"there is no task {name!r:.80}: choose of {', '.join(sorted(TASKS))}.")
        if not levels or not all(1 <= level <= TASKS[name].levels for level in levels):
            raise ConfigError(f"tasks: {name} has levels 1 to {TASKS[name].levels}, {levels} were given.")

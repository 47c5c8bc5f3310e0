"""Pre-train from texts, in stages: general, reasoning-dense with a falling rate, long context with another RoPE base.

Each stage leaves a folder OUT/N-NAME in the official layout, with its card, log and report in OUT/runs. A stage that is
there is not made again, one that was stopped is gone on with. Under torchrun, stages' `batches` are shared by all.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from octavo.core.errors import ConfigError
from octavo.models.decoder import Decoder
from octavo.text.learn import END_OF_TEXT
from octavo.text.tokenizer import Tokenizer
from octavo.train.asked import CARD, asked, made
from octavo.train.models import Size, fresh, reread
from octavo.train.optimiser import Optimisation
from octavo.train.parallel import open_ranks
from octavo.train.ranks import Ranks
from octavo.train.reading import Pieces, check_share, held_out
from octavo.train.report import report
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule, Shape
from octavo.train.step import CrossEntropy
from octavo.train.texts import documents, text_files
from octavo.train.trainer import Trainer

Positive = Annotated[int, Meta(ge=1)]


class Stage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage.   tokens: of one pass;   batches: passes of a step;   longest: tokens of a piece of text;
    theta: base of rotary positions, 0: as it is;   data: files of its own, else the recipe's;   rate: times how.rate"""

    name: Annotated[str, Meta(pattern="^[^/]+$")]
    steps: Positive
    tokens: Positive = 8192
    batches: Positive = 1
    longest: Positive = 1024
    theta: Annotated[float, Meta(ge=0)] = 0.0
    data: str = ""
    rate: float = 1.0
    shape: Shape = "wsd"
    warmup: int = 0
    decay: float = 0.0
    least: float = 1.0


STAGES = (
    Stage(name="general", steps=1000, warmup=40),
    Stage(name="reasoning", steps=500, decay=0.6, least=0.1),
    Stage(name="long", steps=100, tokens=16384, longest=4096, theta=1e5, rate=0.1, decay=1.0, least=0.1),
)
SHAPE = Size(width=192, layers=6, heads=6, inner=576)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    data: Annotated[str, Meta(description="text or JSONL files, or patterns, with commas between")]
    tokenizer: Annotated[str, Meta(description="folder with a tokenizer: octavo train tokenizer")]
    out: Annotated[str, Meta(description="folder of the run")]
    model: Annotated[str, Meta(description="folder of a model to go on with; else one is made of `shape`")] = ""
    shape: Size = SHAPE
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, description="JSON list, one object a stage")] = STAGES
    how: Optimisation = Optimisation(method="muon", rate=4e-3)
    seed: Annotated[int, Meta(ge=0)] = 0
    held_out: Annotated[int, Meta(ge=0, description="each so many-th document is only measured; 0: none")] = 100
    measure: Annotated[int, Meta(ge=1, description="steps between measurements of the held-out loss")] = 100
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = True
    checkpoint: Annotated[bool, Meta(description="keep less of the forward pass, and compute it again")] = False
    balance: Annotated[float, Meta(ge=0, description="coefficient of the loss that keeps experts in use")] = 1e-3
    copies: Annotated[int, Meta(ge=1, description="whole copies of the model among the processes (HSDP)")] = 1
    tensor: Annotated[int, Meta(ge=1, description="processes that share each matrix")] = 1
    save_s: Annotated[float, Meta(ge=0, description="seconds between saved states")] = 60.0
    board: Annotated[bool, Meta(description="write for TensorBoard too")] = False


FREE = ("tokenizer", "copies", "tensor", "save_s", "board")  # may change when a run goes on


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the last stage's folder."""
    ranks = open_ranks(copies=settings.copies, tensor=settings.tensor)
    for stage in settings.stages:
        check_share(stage.batches, ranks)
    tokenizer = Tokenizer.from_folder(Path(settings.tokenizer))
    place = Path(settings.model)
    for number, stage in enumerate(settings.stages, 1):
        before, place = place, Path(settings.out) / f"{number}-{stage.name}"
        folder, kept = Path(settings.out) / "runs" / place.name, _kept(settings, stage, tokenizer)
        if not made(place, kept):
            going_on = before if settings.model or number > 1 else None
            model, config = _begin(settings, stage, tokenizer, before=going_on)
            trainer = _trainer(settings, stage, model, ranks=ranks)
            going = Run(folder, trainer, settings=kept, save_s=settings.save_s, progress=progress, board=settings.board)
            told = _learn(settings, stage, tokenizer, going=going)
            trainer.write(place, config=config, tokenizer=tokenizer, more={CARD: told})
        if ranks.rank == 0:
            for state in folder.glob("state-*"):
                shutil.rmtree(state)
    return place


def _begin(settings: Settings, stage: Stage, tokenizer: Tokenizer, *,
           before: Path | None) -> tuple[Decoder, dict[str, Any]]:  # fmt: skip
    context = max(one.longest for one in settings.stages)
    if before is not None:
        return reread(before, context_tokens=context, theta=stage.theta, tokens=tokenizer.vocab_size)
    rows = -(-tokenizer.vocab_size // 64) * 64
    config = settings.shape.config(vocabulary=rows, context_tokens=context, rope_theta=stage.theta or 1e4)
    return fresh(config, seed=settings.seed), config


def _trainer(settings: Settings, stage: Stage, model: Decoder, *, ranks: Ranks) -> Trainer:
    rate = Schedule(shape=stage.shape, steps=stage.steps, warmup=stage.warmup, decay=stage.decay, least=stage.least)
    return Trainer(
        model, CrossEntropy(), replace(settings.how, rate=settings.how.rate * stage.rate), rate=rate,
        bf16=settings.bf16, checkpoint=settings.checkpoint, balance=settings.balance if model.config.moe else 0.0,
        ranks=ranks,
    )  # fmt: skip


def _kept(settings: Settings, stage: Stage, tokenizer: Tokenizer) -> dict[str, Any]:
    """All that decides what comes out of a stage."""
    told = asked(settings, recipe="pretrain", files=text_files(stage.data or settings.data))
    told = {name: value for name, value in told.items() if name not in FREE}
    return told | {"stage": stage.name, "tokenizer_digest": tokenizer.digest()}


def _learn(settings: Settings, stage: Stage, tokenizer: Tokenizer, *, going: Run) -> dict[str, Any]:
    """Returns the stage's card."""
    trainer, ranks = going.trainer, going.trainer.ranks
    files, end = text_files(stage.data or settings.data), tokenizer.id_of(END_OF_TEXT)
    if end is None:
        raise ConfigError(f"{settings.tokenizer} has no {END_OF_TEXT}, which ends a text: use another tokenizer.")
    inside, outside = held_out([tokenizer.encode(one) for one in documents(files)], settings.held_out)
    how: dict[str, int] = {"end": end, "longest": stage.longest, "tokens": stage.tokens, "seed": settings.seed}
    learnt = Pieces(inside, **how)
    unseen = Pieces(outside, **how).batches(0, ranks, of=stage.batches) if outside else []

    def figures(step: int) -> dict[str, float]:
        due = unseen and (step % settings.measure == 0 or step == stage.steps)
        return {"held_out": trainer.surprise(unseen)} if due else {}

    going.go(lambda step: learnt.batches(step, ranks, of=stage.batches), steps=stage.steps, figures=figures)
    return report(going, recipe="pretrain")

"""Learning from samples that are all there: SFT, cold start, fusion."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.errors import SampleError
from octavo.core.sample import Sample
from octavo.models.decoder import Decoder
from octavo.train.asked import CARD
from octavo.train.batch import batches_of, check_length
from octavo.train.gate import Gate
from octavo.train.lora import Lora, base_name, begin_lora, end_lora
from octavo.train.models import check_format, read_model
from octavo.train.optimiser import Optimisation
from octavo.train.own import OwnChat
from octavo.train.parallel import open_ranks
from octavo.train.ranks import Ranks
from octavo.train.report import report
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule, Shape
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint


class Lesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How samples are learnt."""

    steps: Annotated[int, Meta(ge=1)] = 200
    samples: Annotated[int, Meta(ge=1, description="of one step")] = 64
    tokens: Annotated[int, Meta(ge=1, description="tokens of one forward pass")] = 16384
    how: Optimisation = Optimisation(method="muon", rate=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    shape: Annotated[Shape, Meta(description="of the learning rate")] = "wsd"
    warmup: Annotated[int, Meta(ge=0)] = 10
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.5
    least: Annotated[float, Meta(ge=0, le=1)] = 0.1
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = True


def learn(model: Decoder, samples: Sequence[Sample], lesson: Lesson, *, run: Path, settings: Mapping[str, Any],
          seed: int = 0, progress: Progress | None = None, ranks: Ranks = Ranks(),
          gate: Gate = Gate(), success: Callable[[], float] = lambda: 1.0) -> Run:  # fmt: skip
    """Train a model in place; each sample comes once before any comes again. Goes on where the run stands.

    ranks: who share the samples of a step; each has all;   gate: where it ends, by `success`
    Raises SampleError where there is nothing to learn from, and for a sample that no pass takes.
    """
    if not samples:
        raise SampleError("there is nothing to learn from: the data has no conversations.")
    for one in samples:
        check_length(one, tokens=lesson.tokens)
    rate = Schedule(shape=lesson.shape, steps=lesson.steps, warmup=lesson.warmup, decay=lesson.decay,
                    least=lesson.least, again=gate.again)  # fmt: skip
    trainer = Trainer(model, CrossEntropy(), lesson.how, rate=rate, bf16=lesson.bf16, ranks=ranks)
    kept = {**settings, "lesson": msgspec.to_builtins(lesson), "seed": seed, "samples": len(samples)}
    going = Run(run, trainer, settings=kept, progress=progress)

    def batches(step: int) -> list[Any]:
        chosen = shuffled(samples, lesson.samples, step=step, seed=seed)
        return batches_of(ranks.share(chosen), tokens=lesson.tokens, device=ranks.device)

    gate.go(going, batches, steps=lesson.steps, success=success)
    return going


def learn_checkpoint(before: Path, out: Path, samples: Sequence[Sample], *, lesson: Lesson, recipe: str,
                     settings: Mapping[str, Any], seed: int, progress: Progress | None,
                     lora: Lora = Lora(), gate: Gate = Gate(),
                     success: Callable[[OwnChat], float] = lambda own: 1.0) -> Path:  # fmt: skip
    """A checkpoint, learnt further, in a folder `out`; its run, log and report are kept beside it.

    lora: where it asks for them, only changes of low rank are learnt; they are folded in, and kept in `out`/adapter
    gate, success: as for `learn`
    """
    tokenizer, form = open_text(open_checkpoint(before))
    model, config = read_model(before)
    check_format(out, form, tokenizer, config=config)
    ranks = open_ranks()
    model.to(ranks.device)  # before anything holds it, as what samples from it
    lora = begin_lora(model, lora, seed=seed, ranks=ranks)
    own = OwnChat(model, tokenizer=tokenizer, form=form, ranks=ranks) if gate.least else None
    going = learn(model, samples, lesson, run=out.with_name(f"{out.name}.run"), settings=settings, seed=seed,
                  progress=progress, ranks=ranks, gate=gate,
                  success=lambda: success(own) if own else 1.0)  # fmt: skip
    told = report(going, recipe=recipe)
    adapter = end_lora(going.trainer, lora, folder=going.folder, base=base_name(config, before))
    going.trainer.write(out, config=config, tokenizer=tokenizer, more={CARD: told}, adapter=adapter,
                        ends=form.markers(tokenizer).end)  # fmt: skip
    return out


def shuffled(samples: Sequence[Sample], count: int, *, step: int, seed: int) -> list[Sample]:
    """`count` samples of a stream that goes round and round, in another order each time."""
    places = [divmod(place, len(samples)) for place in range(step * count, (step + 1) * count)]
    turns = {turn for turn, _ in places}
    orders = {turn: random.Random(f"{seed} {turn}").sample(range(len(samples)), len(samples)) for turn in turns}
    return [samples[orders[turn][place]] for turn, place in places]

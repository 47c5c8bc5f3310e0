"""Direct preference optimisation: of two replies to a prompt, the chosen becomes likelier than the rejected.

Data: JSONL, {"prompt": [messages], "chosen": [messages], "rejected": [messages]}, as in TRL. How likely both were
before is taken from the model that the run begins with, once. Source: arXiv:2305.18290.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.errors import SampleError
from octavo.core.sample import Sample, sample
from octavo.train.algorithms import Preference
from octavo.train.asked import CARD, asked, made
from octavo.train.batch import Batch, pack
from octavo.train.conversations import Preferred, Writer, read_preferences
from octavo.train.models import check_format, read_model, write_model
from octavo.train.optimiser import Optimisation
from octavo.train.parallel import open_ranks
from octavo.train.report import report
from octavo.train.run import Progress, Run
from octavo.train.schedule import Schedule
from octavo.train.texts import text_files
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint

Pair = tuple[Sample, Sample]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    model: Annotated[str, Meta(description="folder of the model to begin with, which is the reference too")]
    data: Annotated[str, Meta(description="JSONL files, or patterns, with commas between")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    beta: Annotated[float, Meta(gt=0, description="how strongly it is held to the reference")] = 0.1
    steps: Annotated[int, Meta(ge=1)] = 100
    pairs: Annotated[int, Meta(ge=1, description="of one step")] = 16
    longest: Annotated[int, Meta(ge=1, description="tokens of a sample at most; a longer one is refused")] = 4096
    tokens: Annotated[int, Meta(ge=1, description="tokens of one forward pass; a longer pair has one of its own")] = (
        16384
    )
    warmup: Annotated[int, Meta(ge=0)] = 10
    how: Optimisation = Optimisation(rate=2e-5, weight_decay=0.0)
    bf16: Annotated[bool, Meta(description="products in bfloat16, where the processor has such")] = False
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder. Raises SampleError where a pair's replies are the same."""
    out, files = Path(settings.out), text_files(settings.data)
    wanted = asked(settings, recipe="dpo", files=files)
    if made(out, wanted):
        return out
    tokenizer, form = open_text(open_checkpoint(Path(settings.model)))
    model, config = read_model(Path(settings.model))
    check_format(out, form, tokenizer, config=config)
    writer = Writer(form, tokenizer, longest=settings.longest, context=config.get("max_position_embeddings"))
    pairs = [preferred(writer, one) for path in files for one in read_preferences(path)]
    if not pairs:
        raise SampleError(f"{settings.data} has no pairs: nothing to learn.")
    rate = Schedule(shape="linear", steps=settings.steps, warmup=settings.warmup)
    trainer = Trainer(model, Preference(beta=settings.beta, pairs=settings.pairs), settings.how, rate=rate,
                      bf16=settings.bf16, ranks=open_ranks())  # fmt: skip
    known = [(before(trainer, a), before(trainer, b)) for a, b in pairs]
    going = Run(out.with_name(f"{out.name}.run"), trainer, settings=wanted, progress=progress)
    device = trainer.ranks.device
    going.go(lambda step: [batch.to(device) for batch in batches(known, settings, step)], steps=settings.steps)
    told = report(going, recipe="dpo")
    write_model(out, model, config=config, tokenizer=tokenizer, more={CARD: told}, ends=writer.ends)
    return out


def preferred(writer: Writer, pair: Preferred) -> Pair:
    """Both replies as samples, each after the same prompt."""
    chosen, rejected = (writer.reply(talk, tools=pair.tools, name=pair.name) for talk in (pair.chosen, pair.rejected))
    if len(chosen) == len(rejected) and bool((chosen.tokens == rejected.tokens).all()):
        raise SampleError(f"sample {pair.name}: the chosen and the rejected reply are the same: nothing is preferred.")
    prompts = [one.tokens[: int(np.argmax(one.weights != 0))].tolist() for one in (chosen, rejected)]
    if prompts[0] != prompts[1]:
        raise SampleError(
            f"sample {pair.name}: the chosen and the rejected reply are asked with different prompts (other messages "
            f"before them, or a thinking in one of them only): they cannot be compared."
        )
    return chosen, rejected


def before(trainer: Trainer, one: Sample) -> Sample:
    """With the log-probabilities that the model gives it now, in the precision that it will be trained in."""
    batch = pack([one])
    logprobs_T = torch.full((len(one),), torch.nan)
    logprobs_T[batch.rows_N + 1] = trainer.told(batch.to(trainer.ranks.device)).logprobs_N.cpu()
    return sample(one.tokens.tolist(), one.weights.tolist(), logprobs=logprobs_T.tolist(), name=one.name)


def batches(pairs: Sequence[Pair], settings: Settings, step: int) -> list[Batch]:
    """A step's pairs in as many passes as they take; both of a pair go together."""
    draw = random.Random(f"{settings.seed} {step}")
    groups, size = list[list[Sample]](), settings.tokens + 1
    for pair in draw.choices(pairs, k=settings.pairs):
        more = len(pair[0]) + len(pair[1])
        if size + more > settings.tokens:
            groups.append([])
            size = 0
        groups[-1] += pair
        size += more
    return [pack(group, share=True) for group in groups]

"""Pre-training of the suite: batches of documents, each a pure function of seed, stage and step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from octavo.core.sample import Sample, sample
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.text.learn import END_OF_TEXT
from octavo.text.tokenizer import Tokenizer
from octavo.train.batch import Batch, filled, pack
from octavo.train.mini.plan import Reading
from octavo.train.mini.texts import document

BATCH_TOKENS = 16384  # of one pass; a step may take several


def fresh(config: Mapping[str, Any], *, seed: int) -> Decoder:
    """A model whose weights are small random numbers; what ends in the residual stream is smaller by its depth."""
    torch.manual_seed(seed)
    model = build(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            inward = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
            nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * model.config.layers) if inward else 1))
    return model


def documents(reading: Reading, tokenizer: Tokenizer, *, seed: int, step: int) -> list[Sample]:
    """What a step reads; documents that are joined follow each other within one."""
    first, end = step * reading.documents, tokenizer.id_of(END_OF_TEXT)
    assert end is not None
    seeds = f"{seed} {reading.name}"
    texts = [tokenizer.encode(document(reading.blend, seed=seeds, number=first + i)) for i in range(reading.documents)]
    found = list[Sample]()
    for start in range(0, len(texts), reading.joined):
        tokens = [token for text in texts[start : start + reading.joined] for token in (*text, end)]
        found.append(sample(tokens, [1.0] * len(tokens), name=f"{reading.name} {first + start}"))
    return found


def reader(reading: Reading, tokenizer: Tokenizer, *, seed: int) -> Callable[[int], Sequence[Batch]]:
    """step -> its batches."""

    def batches(step: int) -> list[Batch]:
        read = documents(reading, tokenizer, seed=seed, step=step)
        return [pack(group) for group in filled(read, tokens=BATCH_TOKENS)]

    return batches

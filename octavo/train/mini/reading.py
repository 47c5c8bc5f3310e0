"""Pre-training of the suite: batches of documents, each a pure function of seed, stage and step."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from octavo.core.sample import Sample, sample
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.text.learn import END_OF_TEXT
from octavo.text.tokenizer import Tokenizer
from octavo.train.batch import Batch, batches_of
from octavo.train.mini.plan import Reading
from octavo.train.mini.texts import document, sought, things

BATCH_TOKENS = 16384  # of one pass; a step may take several
LOOKED = 200  # lists in which a name is looked up, to see whether looking up is learnt


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


def reader(reading: Reading, tokenizer: Tokenizer, *, seed: int,
           device: torch.device | str = "cpu") -> Callable[[int], Sequence[Batch]]:  # fmt: skip
    """step -> its batches. Those of the next step are made while this one is learnt from."""
    ahead, coming = ThreadPoolExecutor(1, "octavo-reading"), dict[int, Future[list[Batch]]]()

    def made(step: int) -> list[Batch]:
        read = documents(reading, tokenizer, seed=seed, step=step)
        return batches_of(read, tokens=BATCH_TOKENS, device=device)

    def batches(step: int) -> list[Batch]:
        asked = coming.pop(step, None)
        coming.clear()
        coming[step + 1] = ahead.submit(made, step + 1)
        return made(step) if asked is None else asked.result()

    return batches


@torch.no_grad()
def looked_up(model: Decoder, tokenizer: Tokenizer) -> float:
    """Share of lists of different lengths of which the model knows what stands behind a name that is said again, or
    that was said before the list: the smaller of the two."""
    right, device = [0, 0], next(iter(model.parameters())).device
    for number in range(LOOKED):
        draw = random.Random(f"looked up {number}")
        lines, _ = things(draw)
        again = draw.choice(lines)
        name, thing = again.split()
        for way, (before, after) in enumerate((("\n".join([*lines, name]), f" {thing}"), sought(draw))):
            known = tokenizer.encode(before)
            tokens = torch.tensor(tokenizer.encode(before + after), device=device)
            logits = model.logits(model(tokens, PackedContext([len(tokens)], device=device))[len(known) - 1 : -1])
            right[way] += torch.equal(logits.argmax(-1), tokens[len(known) :])
    return min(right) / LOOKED

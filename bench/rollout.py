"""Tokens a second of rollouts, how far apart they and the trainer are, and how long learning them takes, with prompts
once for a group and once for each reply: `python -m bench.rollout [--exact]`.

A model of 3 million random weights replies to 64 problems, 8 times each, in both modes, 100 tokens at most, until its
thinking is closed by a budget of 60. All is counted: prompts, sampling, reading, scoring, and repacking the weights.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from msgspec.structs import replace

from bench.machine import facts
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Trajectory
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.head import tell
from octavo.tasks import TASKS
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.tokenizer import Tokenizer
from octavo.train.algorithms import ClippedPolicy
from octavo.train.batch import batches_of, pack
from octavo.train.own import OwnChat
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.step import Learner
from tests.serve.mini import config, mini_random

SHAPE = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 640, "head_dim": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MODES = (Thinking(mode="on", budget_tokens=60), Thinking(mode="off"))
HOW = How(replies=8, sampling=Sampling(max_tokens=100))


def learning(model: Decoder, done: Sequence[Trajectory], *, rounds: int) -> dict[str, dict[str, Any]]:
    """Tokens, and seconds of a forward and a backward pass over all replies, both ways, interleaved."""
    learner = Learner(model, ClippedPolicy())
    samples = [to_sample(one, advantage=(-1.0) ** number) for number, one in enumerate(done)]
    ways = {"a prompt for each reply": False, "a prompt for each group": True}
    found: dict[str, dict[str, Any]] = {way: {"tokens": 0, "seconds": []} for way in ways}
    for _ in range(rounds):
        for way, share in ways.items():
            batches = batches_of(samples, tokens=16384, share=share)
            begun_s = time.perf_counter()
            for batch in batches:
                learner(batch, float(len(samples)))[0].backward()
            found[way]["seconds"].append(round(time.perf_counter() - begun_s, 2))
            found[way]["tokens"] = sum(len(batch.tokens_T) for batch in batches)
            model.zero_grad(set_to_none=True)
    return found


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exact", action="store_true", help="with torch, in float32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build({**config(), **SHAPE})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    own = OwnChat(model, tokenizer=Tokenizer.from_folder(mini_random()), form=Qwen3(), exact=options.exact)
    problems = [replace(TASKS["chain"].problem(i, level=4), thinking=MODES[i % 2]) for i in range(64)]
    done, found, spent, worked = list[Trajectory](), list[int](), list[float](), list[float]()
    for seed in range(options.rounds):
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        done = rollout(own.refresh(), problems, tasks=TASKS, how=replace(HOW, seed=seed))
        spent.append(time.perf_counter() - begun_s)
        worked.append(time.process_time() - cpu_s)
        found.append(sum(turn.usage.completion_tokens for one in done for turn in one.turns))
    batch = pack([to_sample(one) for one in done])
    with torch.no_grad():
        hidden_TD = model(batch.tokens_T, PackedContext(batch.lengths))
        told = tell(hidden_TD[batch.rows_N], model.head_weight, batch.targets_N)
    gap_N = (told.logprobs_N - batch.logprobs_N).abs()
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()), "tokens": found,
        "tokens_per_s": [round(n / s) for n, s in zip(found, spent, strict=True)],
        "tokens_per_cpu_s": [round(n / s) for n, s in zip(found, worked, strict=True)],
        "learning": learning(model, done, rounds=options.rounds),
        "gap_mean_nats": float(gap_N.mean()), "gap_max_nats": float(gap_N.max()), "machine": facts(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

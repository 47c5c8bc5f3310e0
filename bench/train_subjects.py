"""Who trains, one process each: `python -m bench.train_subjects SUBJECT SHAPE ...` prints one line of JSON.

All learn from the same random tokens, rows of equal length without padding: what suits those best who pad or who let
packed documents see each other. Steps before the clock starts (compiling, first touches of memory) are told apart.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPES: dict[str, dict[str, int]] = {  # Qwen3's fields, then rows and tokens of a row in one step
    "0.8M": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 32, "intermediate_size": 384, "vocab_size": 256, "rows": 64, "tokens": 128},
    "5M": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
           "head_dim": 32, "intermediate_size": 768, "vocab_size": 512, "rows": 64, "tokens": 128},
    "30M": {"hidden_size": 512, "num_hidden_layers": 9, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 64, "intermediate_size": 1536, "vocab_size": 4096, "rows": 32, "tokens": 128},
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
             "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936, "rows": 2, "tokens": 512},
}  # fmt: skip
WARM_STEPS = 2
Clock = Callable[[], bool]  # called after each step: whether to go on


def config(shape: str) -> dict[str, Any]:
    """Qwen3's config.json of a shape, with a tied head."""
    fields = {name: value for name, value in SHAPES[shape].items() if name not in ("rows", "tokens")}
    return fields | {"model_type": "qwen3", "hidden_act": "silu", "max_position_embeddings": 4096,
                     "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}  # fmt: skip


def rows(shape: str) -> Iterator[np.ndarray]:
    """Random tokens (rows, tokens) of one step after another."""
    s, rng = SHAPES[shape], np.random.default_rng(0)
    while True:
        yield rng.integers(0, s["vocab_size"], (s["rows"], s["tokens"]))


class Stopwatch:
    """Counts steps; the first WARM_STEPS apart. CPU seconds are those of this process, its children and its threads."""

    def __init__(self, seconds: float, least: int) -> None:
        self.seconds, self.least, self.steps = seconds, least, 0
        self.born = self.begin = self.now()

    @staticmethod
    def now() -> tuple[float, float]:
        return sum(os.times()[:4]), time.perf_counter()

    def __call__(self) -> bool:
        self.steps += 1
        if self.steps == WARM_STEPS:
            self.begin = self.now()
        self.end = self.now()
        return self.steps < WARM_STEPS + self.least or self.end[1] - self.begin[1] < self.seconds

    def figures(self, shape: str) -> dict[str, float]:
        tokens = (self.steps - WARM_STEPS) * SHAPES[shape]["rows"] * SHAPES[shape]["tokens"]
        cpu, wall = (end - begin for end, begin in zip(self.end, self.begin, strict=True))
        return {"tokens": tokens, "tokens_per_cpu_s": tokens / cpu, "tokens_per_s": tokens / wall,
                "warm_cpu_s": self.begin[0] - self.born[0]}  # fmt: skip


def octavo(shape: str, clock: Clock, setting: str) -> None:
    """Our trainer, AdamW."""
    from octavo.core.sample import sample
    from octavo.models import build
    from octavo.train.batch import pack
    from octavo.train.optimiser import Optimisation
    from octavo.train.step import CrossEntropy
    from octavo.train.trainer import Trainer

    torch.manual_seed(0)
    model = build(config(shape))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    trainer = Trainer(model, CrossEntropy(), Optimisation(rate=1e-4), bf16=setting == "bf16")
    ones = [1.0] * SHAPES[shape]["tokens"]
    for step in rows(shape):
        trainer.learn([pack([sample(row.tolist(), ones) for row in step])])
        if not clock():
            return


def transformers(shape: str, clock: Clock, setting: str) -> None:
    """Hugging Face's Trainer. setting: fp32 or bf16, then + compile."""
    from torch.utils.data import IterableDataset
    from transformers import (
        Qwen3Config,
        Qwen3ForCausalLM,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    class Rows(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for step in rows(shape):
                for row in torch.from_numpy(step):
                    yield {"input_ids": row, "labels": row}

    class Timed(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            if self.state.global_step and not clock():  # the step before is over, its update included
                self.control.should_training_stop = True
            return super().training_step(model, inputs, num_items_in_batch)

    torch.manual_seed(0)
    fields = {name: value for name, value in config(shape).items() if name != "model_type"}
    model = Qwen3ForCausalLM(Qwen3Config(**fields))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=SHAPES[shape]["rows"], max_steps=100_000, use_cpu=True,
            bf16="bf16" in setting, torch_compile="compile" in setting, optim="adamw_torch_fused", report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-4,
        )  # fmt: skip
        Timed(model=model, args=arguments, train_dataset=Rows(), data_collator=default_data_collator).train()


def nanochat(shape: str, clock: Clock, setting: str) -> None:
    """nanochat's model of the same width, depth and heads, its optimiser, and the step of its scripts/base_train.py.

    A row's last token is a target only: 127 of 128 go through the model and all are counted, 0.8 % in its favour.
    """
    from nanochat.gpt import GPT, GPTConfig

    s = SHAPES[shape]
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=s["tokens"], vocab_size=s["vocab_size"], n_layer=s["num_hidden_layers"],
                          n_head=s["num_attention_heads"], n_kv_head=s["num_key_value_heads"],
                          n_embd=s["hidden_size"], window_pattern="L"))  # fmt: skip
    model.init_weights()
    optimizer = model.setup_optimizer()
    run = torch.compile(model, dynamic=False) if "compile" in setting else model
    for step in rows(shape):
        x = torch.from_numpy(step).contiguous()
        run(x[:, :-1].contiguous(), x[:, 1:].contiguous()).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if not clock():
            return


SUBJECTS: dict[str, Callable[[str, Clock, str], None]] = {
    "octavo": octavo, "transformers": transformers, "nanochat": nanochat,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("setting")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--least", type=int, default=2, help="steps that are timed at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nanochat", type=Path, help="a clone of nanochat")
    asked = parser.parse_args()
    if asked.subject == "nanochat":
        sys.path.insert(0, str(asked.nanochat))
        os.environ["NANOCHAT_DTYPE"] = "bfloat16" if "bf16" in asked.setting else "float32"
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # what our step goes by
    torch.set_num_threads(asked.threads)
    clock = Stopwatch(asked.seconds, asked.least)
    SUBJECTS[asked.subject](asked.shape, clock, asked.setting)
    print(json.dumps(clock.figures(asked.shape)))


if __name__ == "__main__":
    main()

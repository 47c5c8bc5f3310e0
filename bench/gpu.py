"""Parity and throughput on a GPU: `bench/gpu.sh` runs it and writes bench/results/gpu.json (or $OUT/gpu.json).

Tiny models of every family give the same fp32 logits on CUDA as on the CPU; the shape of Qwen3-0.6B decodes in bf16,
and is trained on documents of 4,096 and 8,192 tokens.
Needs nothing but Octavo and its dependencies. `--device cpu` tries the script itself where there is no GPU.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from octavo.core.sample import sample
from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Chunk, Plan, Request
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.train.batch import pack
from octavo.train.optimiser import Optimisation
from octavo.train.speed import peak_flops
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer

BOUND = 1e-3  # fp32 logits, absolute, TF32 off
TINY: dict[str, Any] = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES = {
    "qwen3": TINY | {"model_type": "qwen3"},
    "qwen3_moe": TINY | {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3,
                         "moe_intermediate_size": 48, "norm_topk_prob": True},
    "qwen2": TINY | {"model_type": "qwen2"},
    "llama": TINY | {"model_type": "llama"},
}  # fmt: skip
SHAPE = TINY | {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}  # fmt: skip


def random_model(config: dict[str, Any], *, std: float, dtype: torch.dtype) -> Decoder:
    """Random weights; the same on every device."""
    torch.manual_seed(0)
    model = build(config).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model.requires_grad_(False)


def difference(config: dict[str, Any], device: str) -> float:
    """Largest difference of logits between CPU and device, in chunks over pages."""
    found = list[torch.Tensor]()
    for place in ("cpu", device):
        model = random_model(config, std=0.25, dtype=torch.float32).to(place)
        backend, rows = TorchBackend(model, cache_bytes=1 << 24, page_tokens=16), list[torch.Tensor]()
        for start, end in ((0, 30), (30, 31), (31, 100)):
            pages = tuple(range(-(-end // 16)))
            chunk = Chunk(tokens=tuple(range(start, end)), start=start, pages=pages, rows="all")
            rows.append(torch.from_numpy(backend.forward(Plan(chunks=(chunk,)))))
        found.append(torch.cat(rows))
    return float((found[0] - found[1]).abs().max())


def decode(backend: TorchBackend, *, batch: int, tokens: int) -> float:
    """Tokens per second of all replies together, once their prompts are computed."""
    engine = Engine(backend, step_tokens=8192, speculation=None)  # one pass for each token
    for i in range(batch):
        sampling = Sampling(temperature=0, max_tokens=tokens)
        engine.submit(Request(id=str(i), tokens=tuple(range(10 + i, 138 + i)), sampling=sampling))
    while engine.stats.waiting or engine.computed_tokens < 128 * batch:
        engine.step()
    start, done = time.perf_counter(), 0
    while engine.busy:
        done += len(engine.step())
    return done / (time.perf_counter() - start)


def learn(config: dict[str, Any], device: str, *, tokens: int, steps: int) -> dict[str, float]:
    """Tokens per second and MFU of whole steps of pre-training in bf16, one document of so many tokens each."""
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # else the peak is that of what ran before
    model = random_model(config, std=0.02, dtype=torch.float32).to(device).requires_grad_(True)
    trainer = Trainer(model, CrossEntropy(), Optimisation(rate=1e-4))
    read = [token % config["vocab_size"] for token in range(7, 7 + tokens)]
    batch = pack([sample(read, [1.0] * tokens, name="bench")]).to(device)
    trainer.learn([batch])
    start = time.perf_counter()
    flops = sum(trainer.learn([batch]).flops for _ in range(steps))  # a step's loss is read, so it has ended
    seconds = time.perf_counter() - start
    peak = peak_flops(torch.device(device), torch.bfloat16)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"tokens/s": steps * tokens / seconds, "MFU": flops / seconds / peak, "GiB": memory}


def main() -> int:
    """Print and write the figures; 1 where parity does not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    torch.backends.cuda.matmul.allow_tf32 = False
    parity = {name: difference(config, device) for name, config in FAMILIES.items()}
    print("parity with the CPU, largest difference of fp32 logits:", parity)
    backend = TorchBackend(random_model(SHAPE, std=0.02, dtype=torch.bfloat16).to(device), cache_bytes=8 << 30)
    speed = {}
    for batch in (1, 16, 64) if device != "cpu" else (1,):
        decode(backend, batch=batch, tokens=8)
        speed[batch] = decode(backend, batch=batch, tokens=128 if device != "cpu" else 8)
        print(f"batch {batch}: {speed[batch]:,.0f} tokens/s")
    del backend
    lengths = (4096, 8192) if device != "cpu" else (256,)
    learning = {length: learn(SHAPE if device != "cpu" else TINY | {"model_type": "qwen3"}, device, tokens=length,
                              steps=8) for length in lengths}  # fmt: skip
    for length, figures in learning.items():
        print(f"training, documents of {length} tokens:", figures)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    result = {"command": "python -m bench.gpu", "device": name, "torch": torch.__version__, "parity": parity,
              "bound": BOUND, "Qwen3-0.6B shape, bf16, tokens/s": speed,
              "training of that shape, bf16": learning}  # fmt: skip
    if device != "cpu":
        folder = Path(os.environ.get("OUT", Path(__file__).with_name("results")))
        (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if max(parity.values()) < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

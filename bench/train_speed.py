"""Training speed beside Hugging Face's Trainer and nanochat's step: `python -m bench.train_speed SHAPE ...`.

First every setting of every subject once; then the best setting of each again, turn by turn. Counted are tokens per CPU
second of the whole process, after compiling and two warm-up steps. The result of a shape replaces the one it had in the
file.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import busy_share, command_of, cpu_ticks, facts
from bench.train_subjects import SHAPES
from octavo.nn.kernels import open_library

RESULT = Path("bench/results/train_speed.json")
SETTINGS = {
    "octavo": ("bf16",), "transformers": ("bf16", "fp32", "bf16+compile", "fp32+compile"),
    "nanochat": ("bf16+compile", "bf16"),
}  # fmt: skip
BARS = {"0.8M": 4.0, "5M": 4.0, "30M": 4.0, "0.6B": 1.3}  # times the Trainer
TIMEOUT_S = 900


def operations(shape: str) -> float:
    """Of one token forward and backward in Qwen3's shape: products with weights, and half of all pairs in a row."""
    s = SHAPES[shape]
    heads, groups, width = s["num_attention_heads"], s["num_key_value_heads"], s["hidden_size"]
    layer = width * s["head_dim"] * (2 * heads + 2 * groups) + 3 * width * s["intermediate_size"]
    pairs = 2 * heads * s["head_dim"] * s["tokens"] / 2
    return 6 * (s["num_hidden_layers"] * (layer + pairs) + width * s["vocab_size"])


def peak_rate() -> float:
    """Operations per second of one core's bf16 products between registers: the best of many, for others take turns."""
    return 2 * max(open_library().matrix_rate("bf16", 1) for _ in range(12))


def run(subject: str, setting: str, asked: argparse.Namespace, *, threads: int = 1) -> dict[str, float] | str:
    """One process: what it measured, or why it did not."""
    command = [sys.executable, "-m", "bench.train_subjects", subject, asked.shape, setting]
    options = {"threads": threads, "seconds": asked.seconds, "least": asked.least, "nanochat": asked.nanochat}
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    before = cpu_ticks()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"took more than {TIMEOUT_S} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:200]
    figures = json.loads(done.stdout.strip().splitlines()[-1]) | {"machine_busy": busy_share(before, cpu_ticks())}
    print(f"{asked.shape} {subject} {setting} threads={threads}: {figures['tokens_per_cpu_s']:,.0f} tokens/CPU-s, "
          f"{figures['tokens_per_s']:,.0f} tokens/s", flush=True)  # fmt: skip
    return figures


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    subjects = [name for name in SETTINGS if name != "nanochat" or asked.nanochat is not None]
    tried = {
        name: {s: run(name, s, asked) for s in SETTINGS[name] if f"{name}:{s}" not in asked.skip} for name in subjects
    }
    done = {name: {s: r for s, r in each.items() if not isinstance(r, str)} for name, each in tried.items()}
    best = {name: max(each, key=lambda s, each=each: each[s]["tokens_per_cpu_s"]) for name, each in done.items()}
    first = {name: done[name][best[name]] for name in subjects}
    rounds = [first] + [{name: run(name, best[name], asked) for name in subjects} for _ in range(asked.rounds - 1)]
    figures = {}
    for name in subjects:
        rates = [each[name]["tokens_per_cpu_s"] for each in rounds]
        figures[name] = {"setting": best[name], "median": median(rates), "least": min(rates), "most": max(rates)}
    rate, peak = figures["octavo"]["median"], peak_rate()
    both, beside = run("octavo", best["octavo"], asked, threads=2), figures.get("nanochat")
    return {
        "command": command_of("bench.train_speed"),
        "step": f"{SHAPES[asked.shape]['rows']} rows of {SHAPES[asked.shape]['tokens']} tokens", "threads": 1,
        "tokens_per_cpu_s": figures, "times_transformers": rate / figures["transformers"]["median"],
        "bar": BARS[asked.shape], "times_nanochat": rate / beside["median"] if beside else None,
        "operations_per_token": operations(asked.shape), "bf16_peak_per_core": peak,
        "mfu": rate * operations(asked.shape) / peak,
        "transformers_mfu": figures["transformers"]["median"] * operations(asked.shape) / peak,
        "times_transformers_at_full_peak": peak / operations(asked.shape) / figures["transformers"]["median"],
        "octavo_two_threads": both, "tried": tried, "left_out": asked.skip, "rounds": rounds, "machine": facts(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement, at least")
    parser.add_argument("--least", type=int, default=2, help="steps of one measurement, at least")
    parser.add_argument("--skip", nargs="*", default=[], help="what to leave out, such as transformers:fp32")
    parser.add_argument("--nanochat", type=Path, help="a clone of nanochat; without it, it is left out")
    asked = parser.parse_args()
    found = measure(asked)
    whole = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    shapes = whole.get("shapes", {}) | {asked.shape: found}
    whole = {"command": "python -m bench.train_speed SHAPE --nanochat PATH", "shapes": shapes}
    RESULT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(f"{asked.shape}: {found['times_transformers']:.2f} x Trainer (bar {found['bar']}), MFU {found['mfu']:.2f}")


if __name__ == "__main__":
    main()

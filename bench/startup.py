"""From the start of a process to its first token, and its memory then: `python -m bench.startup MODEL [MODEL.gguf]`.

Octavo opens MODEL as `octavo run` does and takes the first delta of a reply. llama.cpp, from the rivals' Python, opens
the GGUF file beside it; where that has no vocabulary, it is given as many token ids as its prompt would have. Both take
turns, offline and with the files in the page cache: a first run of each does not count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.machine import busy_share, command_of, cpu_ticks, facts

RESULT = Path(__file__).with_name("results") / "startup.json"
PEAK = """
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("first", int(line.split()[1]) * 1024 / 1e6, flush=True)
"""
OURS = """
import sys
from octavo.chat import load
from octavo.core.messages import Message
from octavo.core.sampling import Sampling
chat = load(sys.argv[1], offline=True, kind=sys.argv[2] or None)
reply = chat.stream([Message(role="user", content="Say hello.")], sampling=Sampling(temperature=0, max_tokens=8))
next(iter(reply))
"""
LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=2, n_threads_batch=2, flash_attn=True, verbose=False)
try:
    prompt = model.tokenize(b"<|im_start|>user\\nSay hello.<|im_end|>\\n<|im_start|>assistant\\n", special=True)
except RuntimeError:
    prompt = list(range(100, 112))
model.eval(prompt)
model.sample(temp=0.0)
"""


def start(python: str, code: str, model: str, *, weights: str = "") -> tuple[float, float]:
    """Seconds from the start of the process to its first token, and megabytes at their peak until then."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [python, "-c", code + PEAK, model, weights], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("first ")), "")
    took_s = time.perf_counter() - begin
    process.kill()
    process.wait()
    if not line:
        raise SystemExit(f"{python} gave no token for {model}: run it by hand to see why")
    return took_s, float(line.split()[1])


def title(model: str) -> str:
    """The last part of a path, with the kind of weights where one is named."""
    path, _, weights = model.partition("@")
    return f"{Path(path).name}@{weights}" if weights else Path(path).name


def summary(runs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians and all runs, in seconds and megabytes."""
    seconds, memory = [run[0] for run in runs], [run[1] for run in runs]
    return {
        "first token, s": statistics.median(seconds), "peak RSS, MB": statistics.median(memory),
        "runs, s": sorted(seconds), "runs, MB": sorted(memory),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Process start to first token.")
    parser.add_argument("models", nargs="+", help="what Octavo opens, PATH or PATH@WEIGHTS; .gguf: llama.cpp too")
    parser.add_argument("--only-llama", nargs="*", default=[], help="GGUF files for llama.cpp alone")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rivals", type=Path, default=Path(".rivals"), help="what bench/rivals.sh set up")
    arguments = parser.parse_args()
    python = str(arguments.rivals / "bin" / "python")
    kinds = [(f"octavo {title(m)}", sys.executable, OURS, m) for m in arguments.models]
    ggufs = [m for m in arguments.models if m.endswith(".gguf")] + arguments.only_llama
    kinds += [(f"llama.cpp {Path(m).name}", python, LLAMA, m) for m in ggufs if Path(python).exists()]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in kinds}
    before = cpu_ticks()
    for turn in range(arguments.runs + 1):
        for name, interpreter, code, model in kinds:
            path, _, weights = model.partition("@")
            run = start(interpreter, code, path, weights=weights)
            found[name] += [run] if turn else []
    result: dict[str, Any] = {"command": command_of("bench.startup"), "runs": arguments.runs}
    result |= {"machine": facts(), "machine busy": busy_share(before, cpu_ticks())}
    result["starts"] = {name: summary(runs) for name, runs in found.items()}
    for name, row in result["starts"].items():
        span = f"{row['runs, s'][0]:.2f} to {row['runs, s'][-1]:.2f} s"
        print(f"{name:48}{row['first token, s']:8.2f} s  {row['peak RSS, MB']:8.0f} MB   {span}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

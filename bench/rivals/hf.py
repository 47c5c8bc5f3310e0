"""`transformers` in bf16 with SDPA attention, in a bare loop under inference_mode, which is faster than `generate`.

Kinds: "eager" with its dynamic cache; "compiled", where torch.compile runs each step over a static cache; "frozen", the
same with inductor's freezing, which packs the weights. A compiled step is compared with eager steps first: the same
greedy tokens, or there is no figure.
"""

import time
from pathlib import Path
from typing import Any

from bench.rivals.worker import MissingFigure, Order, prompt, serve

COMPARED = 4  # greedy tokens
ROOM = 64  # positions of a static cache beside the prompt: kept small, since attention reads them all


class Transformers:
    """Implements `worker.Runner`."""

    def __init__(self, path: str, kind: str) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch, self.library, self.kind = torch, transformers, kind
        file = Path(path)
        folder, gguf = (file.parent, {"gguf_file": file.name}) if file.suffix == ".gguf" else (file, {})
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="sdpa", **gguf
        ).eval()
        self.model.requires_grad_(False)
        self.checked = set[tuple[int, int]]()
        if kind != "eager":
            from torch._inductor import config

            config.freezing = kind == "frozen"
            self.compiled = torch.compile(self.forward, dynamic=False)

    def settings(self, order: Order) -> list[str]:
        """The kind is the setting. Prompts and crowds: only eager, the others would compile for every length."""
        if order.do == "requests":
            raise MissingFigure("transformers has no continuous batching that runs here at its best speed")
        if order.do == "prefill" and self.kind != "eager":
            raise MissingFigure("a compiled prompt is compiled anew for each length")
        if order.cache != "16":
            raise MissingFigure("its caches are in 16 bits")
        return [self.kind]

    def forward(self, tokens: Any, cache: Any, positions: Any) -> Any:
        """Next tokens (batch, 1) after `tokens` (batch, new)."""
        out = self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=positions,
            position_ids=positions[None].expand(len(tokens), -1),
        )  # fmt: skip
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def start(self, order: Order, *, size: int, static: bool) -> tuple[Any, Any]:
        """First tokens of the replies, and the cache that holds the prompts."""
        torch, library = self.torch, self.library
        cache: Any = library.DynamicCache()
        if static:
            cache = library.StaticCache(config=self.model.config, max_cache_len=size + ROOM)
        tokens = torch.tensor([prompt(order, i, tokens=size) for i in range(order.batch)])
        return self.forward(tokens, cache, torch.arange(size)), cache

    def steps(self, order: Order, *, count: int, compiled: bool) -> tuple[list[float], list[Any]]:
        """Seconds and tokens of each step."""
        torch, size = self.torch, order.context - order.steps // 2
        step = self.compiled if compiled else self.forward
        took_s, found = list[float](), list[Any]()
        with torch.inference_mode() if not compiled else torch.no_grad():  # freezing knows no inference tensors
            last, cache = self.start(order, size=size, static=compiled)
            for i in range(count):
                positions = torch.arange(size + i, size + i + 1)
                start = time.perf_counter()
                last = step(last, cache, positions)
                found.append(last.tolist())
                took_s.append(time.perf_counter() - start)
        return took_s, found

    def decode(self, order: Order, setting: str) -> list[float]:
        """Steps; those that compile are not among them."""
        if setting == "eager":
            return self.steps(order, count=order.steps, compiled=False)[0]
        shape = (order.batch, order.context)
        if shape not in self.checked:
            mine = self.steps(order, count=COMPARED, compiled=True)[1]
            eager = self.steps(order, count=COMPARED, compiled=False)[1]
            if mine != eager:
                raise MissingFigure(f"the {setting} step gave other greedy tokens than eager: {mine} and {eager}")
            self.checked.add(shape)
        return self.steps(order, count=order.steps + 2, compiled=True)[0][2:]

    def prefill(self, order: Order, setting: str) -> float:
        """A prompt at once."""
        with self.torch.inference_mode():
            start = time.perf_counter()
            first, _ = self.start(order, size=order.context, static=False)
            first.tolist()
            return time.perf_counter() - start


def import_all() -> None:
    """What loading would import: no part of the load."""
    import torch  # noqa: F401
    import transformers  # noqa: F401


def load(path: str, kind: str, threads: int) -> Any:
    """One checkpoint."""
    import torch

    torch.set_num_threads(threads)
    return Transformers(path, kind)


if __name__ == "__main__":
    serve(import_all, load)

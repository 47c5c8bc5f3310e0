"""Octavo as a user has it: requests go through the engine, and each step counts with all that the engine does in it."""

import time
from typing import TYPE_CHECKING, Any

from bench.rivals.worker import Order, prompt, serve

if TYPE_CHECKING:
    from octavo.engine.types import Backend


def open_backend(path: str, kind: str, *, cache: str) -> "Backend":
    """The backend behind a kind of weights and of cache ("16": bf16, "int8"). "w4-pure" has its head in w4 too."""
    from octavo.chat.loading import open_packed_here
    from octavo.engine.cpu_backend import CpuBackend
    from octavo.weights import open_checkpoint

    recipe, _, pure = kind.partition("-")
    model = open_packed_here(open_checkpoint(path), kind=recipe, head="w4" if pure else None)
    return CpuBackend(model, cache_bytes=3 << 30, cache_kind="int8" if cache == "int8" else "bf16")


class Ours:
    """Implements `worker.Runner`."""

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        self.backends = {"16": open_backend(path, kind, cache="16")}

    def settings(self, order: Order) -> list[str]:
        """Nothing to choose."""
        return [f"{self.kind} weights, cache in {order.cache}"]

    def backend(self, cache: str) -> "Backend":
        """Opened when it is first needed."""
        if cache not in self.backends:
            self.backends[cache] = open_backend(self.path, self.kind, cache=cache)
        return self.backends[cache]

    def decode(self, order: Order, setting: str) -> list[float]:
        """Steps in which every sequence gets a token."""
        from octavo.engine.speed import decode_seconds

        prompts = [prompt(order, i, tokens=order.context - order.steps // 2) for i in range(order.batch)]
        return decode_seconds(self.backend(order.cache), prompts, steps=order.steps)

    def prefill(self, order: Order, setting: str) -> float:
        """One request for one token."""
        from octavo.engine.speed import prefill_seconds

        return prefill_seconds(self.backend(order.cache), prompt(order, 0, tokens=order.context))

    def requests(self, work: list[tuple[list[int], int]], setting: str) -> float:
        """All at once: who runs when is the scheduler's business."""
        from octavo.engine.engine import Engine
        from octavo.engine.speed import submit

        engine, given = Engine(self.backend("16"), speculation=None), 0
        start = time.perf_counter()
        for i, (tokens, reply) in enumerate(work):
            submit(engine, str(i), tokens, tokens=reply)
        while engine.busy:
            given += sum(step.token is not None for step in engine.step())
        took_s = time.perf_counter() - start
        assert given == sum(reply for _, reply in work)
        return took_s


def import_all() -> None:
    """What loading would import: no part of the load."""
    import octavo.chat.local
    import octavo.weights  # noqa: F401


def load(path: str, kind: str, threads: int) -> Any:
    """One model. Its threads are as many as the cores that this process was given."""
    return Ours(path, kind)


if __name__ == "__main__":
    serve(import_all, load)

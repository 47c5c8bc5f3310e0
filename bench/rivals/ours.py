"""Octavo as a user has it: requests go through the engine, and each step counts with all that the engine does in it."""

import time
from typing import TYPE_CHECKING, Any, get_args

from bench.rivals.worker import MissingFigure, Order, prompt, serve

if TYPE_CHECKING:
    from octavo.engine.engine import Engine
    from octavo.engine.types import Backend


def open_backend(path: str, kind: str, *, cache: str) -> "Backend":
    """The backend behind a kind of weights and of cache ("16": 16 bits, "int8"): the one place that knows them."""
    from octavo.chat.loading import on_cpu
    from octavo.nn.linear import Kind
    from octavo.weights import open_checkpoint

    kinds = get_args(Kind)
    if kind not in kinds or cache != "16":
        raise MissingFigure(f"no backend has {kind} weights with a cache in {cache} yet")
    return on_cpu(open_checkpoint(path), kind=kind, cache_bytes=3 << 30)


class Ours:
    """Implements `worker.Runner`."""

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        self.backends = {"16": open_backend(path, kind, cache="16")}

    def settings(self, order: Order) -> list[str]:
        """Nothing to choose."""
        return [f"{self.kind} weights, cache in {order.cache}"]

    def engine(self, cache: str) -> "Engine":
        """A new one, with no prompt in its prefix tree."""
        from octavo.engine.engine import Engine

        if cache not in self.backends:
            self.backends[cache] = open_backend(self.path, self.kind, cache=cache)
        return Engine(self.backends[cache])

    def decode(self, order: Order, setting: str) -> list[float]:
        """Steps in which every sequence gets a token."""
        engine, size, took_s = self.engine(order.cache), order.context - order.steps // 2, list[float]()
        for i in range(order.batch):
            submit(engine, str(i), prompt(order, i, tokens=size), order.steps + 32 * order.batch)
        while engine.stats.waiting or any(s.computed < size for s in engine.scheduler.running):
            engine.step()
        for _ in range(order.steps):
            start = time.perf_counter()
            steps = engine.step()
            took_s.append(time.perf_counter() - start)
            assert len(steps) == order.batch
        return took_s

    def prefill(self, order: Order, setting: str) -> float:
        """One request for one token."""
        engine = self.engine(order.cache)
        submit(engine, "0", prompt(order, 0, tokens=order.context), 1)
        start = time.perf_counter()
        while not engine.step():
            pass
        return time.perf_counter() - start

    def requests(self, work: list[tuple[list[int], int]], setting: str) -> float:
        """All at once: who runs when is the scheduler's business."""
        engine = self.engine("16")
        start = time.perf_counter()
        for i, (tokens, reply) in enumerate(work):
            submit(engine, str(i), tokens, reply)
        given = 0
        while engine.busy:
            given += sum(step.token is not None for step in engine.step())
        took_s = time.perf_counter() - start
        assert given == sum(reply for _, reply in work)
        return took_s


def submit(engine: "Engine", id: str, tokens: list[int], reply: int) -> None:
    """A greedy request."""
    from octavo.core.sampling import Sampling
    from octavo.engine.types import Request

    engine.submit(Request(id=id, tokens=tuple(tokens), sampling=Sampling(temperature=0, max_tokens=reply)))


def import_all() -> None:
    """What loading would import: no part of the load."""
    import octavo.chat.local
    import octavo.weights  # noqa: F401


def load(path: str, kind: str, threads: int) -> Any:
    """One model. Threads beyond this backend's own are torch's."""
    import torch

    torch.set_num_threads(threads)
    return Ours(path, kind)


if __name__ == "__main__":
    serve(import_all, load)

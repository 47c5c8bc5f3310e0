"""What all workers of `bench.cpu` share: orders come in on stdin and figures leave on stdout, one JSON object a line.

Runs in Octavo's Python and in the rivals': only the standard library here.
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

VOCAB = 45_000  # prompts are drawn from ids below: every model has them


@dataclass(frozen=True, kw_only=True)
class Order:
    """One figure to measure.

    do       "decode": new tokens per second, all sequences together; "prefill": prompt tokens per second;
             "requests": seconds for a crowd of them
    batch    sequences at once, or requests of the crowd
    context  tokens of prompt and reply in the middle of a decode; of the prompt of a prefill
    cache    "int8" or "16": how keys and values are kept, as near as the contender can
    steps    of a decode; their median counts, or with `mean` their sum
    salt     another one gives other prompts, so that no cache of prompts can help
    warm     only choose a setting and warm up, with an order that is sooner done
    """

    do: str
    batch: int = 1
    context: int = 128
    cache: str = "16"
    steps: int = 24
    mean: bool = False
    salt: int = 0
    warm: bool = False

    def line(self) -> str:
        """For stdin."""
        return json.dumps(asdict(self)) + "\n"


class MissingFigure(Exception):
    """A contender cannot do what was ordered, and says why."""


class Runner(Protocol):
    """One engine with one model. A setting is whatever the engine has to choose from; the fastest is taken."""

    def settings(self, order: Order) -> list[str]:
        """What there is to choose for such an order. Raises MissingFigure."""
        ...

    def decode(self, order: Order, setting: str) -> list[float]:
        """Seconds of each step, the choice of the next tokens included."""
        ...

    def prefill(self, order: Order, setting: str) -> float:
        """Seconds to the first token."""
        ...

    def requests(self, work: list[tuple[list[int], int]], setting: str) -> float:
        """Seconds for all (prompt, tokens of the reply)."""
        ...


def prompt(order: Order, number: int, *, tokens: int) -> list[int]:
    """The ids of one prompt: random, so that nothing in it repeats."""
    return random.Random(f"{order.salt}/{number}").choices(range(10, VOCAB), k=tokens)


def crowd(order: Order) -> list[tuple[list[int], int]]:
    """Prompts of 32 to 512 tokens and the lengths of their replies, 16 to 128: the same lengths for everyone."""
    sizes = random.Random(64)
    lengths = [(sizes.randint(32, 512), sizes.randint(16, 128)) for _ in range(order.batch)]
    return [(prompt(order, i, tokens=size), reply) for i, (size, reply) in enumerate(lengths)]


class Measurer:
    """Turns orders into figures, with the setting that was fastest when the order first came."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.chosen = runner, dict[tuple[Any, ...], tuple[str, dict[str, float]]]()

    def figure(self, order: Order) -> dict[str, Any]:
        """{"value", "setting", "tried"} or {"missing"}. Larger is better but for "requests"."""
        key = (order.do, order.batch, order.context, order.cache, order.mean)
        try:
            if key not in self.chosen:
                tried = self.tried(order)
                pick = min if order.do == "requests" else max
                self.chosen[key] = (pick(tried, key=lambda s: tried[s]), tried)
            setting, tried = self.chosen[key]
            value = tried[setting] if order.warm else self.value(order, setting)
            return {"value": value, "setting": setting, "tried": tried if len(tried) > 1 else {}}
        except MissingFigure as missing:
            return {"missing": str(missing)}

    def tried(self, order: Order) -> dict[str, float]:
        """Each setting that can do it -> its figure. Raises MissingFigure where none can: what the last one said."""
        tried, why = dict[str, float](), MissingFigure("it has no setting for that")
        for setting in self.runner.settings(order):
            try:
                tried[setting] = self.value(smaller(order), setting)
            except MissingFigure as missing:
                why = missing
        if not tried:
            raise why
        return tried

    def value(self, order: Order, setting: str) -> float:
        """One measurement with one setting."""
        if order.do == "decode":
            took_s = self.runner.decode(order, setting)
            return order.batch / (statistics.fmean(took_s) if order.mean else statistics.median(took_s))
        if order.do == "prefill":
            return order.context / self.runner.prefill(order, setting)
        assert order.do == "requests", order.do
        return self.runner.requests(crowd(order), setting)


def smaller(order: Order) -> Order:
    """An order of the same kind that is soon done: enough to choose a setting by."""
    small = {"batch": min(order.batch, 8)} if order.do == "requests" else {}
    small |= {"steps": min(order.steps, 12)}
    return Order(**(asdict(order) | small | {"salt": order.salt + 500_000}))


def peak_rss_mb() -> float:
    """Of this process; `getrusage` would count what its parent had when it was forked."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def serve(import_all: Callable[[], None], load: Callable[[str, str, int], Runner]) -> None:
    """A worker's life: `python -m bench.rivals.X PATH KIND CORES`, where CORES are numbers such as 0,1."""
    path, kind, cores = sys.argv[1:4]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    import_all()
    start = time.perf_counter()
    try:
        runner = load(path, kind, len(cores.split(",")))
    except MissingFigure as missing:
        answer({"missing": str(missing)})
        return
    answer({"load": time.perf_counter() - start})
    measurer = Measurer(runner)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        if order.do == "memory":
            answer({"value": peak_rss_mb()})
        else:
            answer(measurer.figure(order))


def answer(values: dict[str, Any]) -> None:
    """One line of JSON to whoever asked. stdout is nobody else's: libraries that print get stderr."""
    sys.__stdout__.write(json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]

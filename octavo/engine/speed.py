"""How long an engine takes over a backend: seconds of each step, with all that the engine does in it.

Without speculation: a step is one pass, and random models repeat themselves.
"""

import time
from collections.abc import Sequence

from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine
from octavo.engine.types import Backend, Request


def decode_seconds(backend: Backend, prompts: Sequence[Sequence[int]], *, steps: int) -> list[float]:
    """Of `steps` steps, in each of which every prompt's reply gets a token. The prompts are computed before."""
    engine, took_s = Engine(backend, speculation=None), list[float]()
    for i, prompt in enumerate(prompts):  # replies long enough that none ends while the last prompt is computed
        submit(engine, str(i), prompt, tokens=steps + 32 * len(prompts))
    while engine.stats.waiting or any(s.computed < len(s.request.tokens) for s in engine.scheduler.running):
        engine.step()
    for _ in range(steps):
        start_s = time.perf_counter()
        given = engine.step()
        took_s.append(time.perf_counter() - start_s)
        assert len(given) == len(prompts), "a reply ended before the measurement did"
    return took_s


def prefill_seconds(backend: Backend, prompt: Sequence[int]) -> float:
    """Until the first token of the reply is there."""
    engine = Engine(backend, speculation=None)
    submit(engine, "0", prompt, tokens=1)
    start_s = time.perf_counter()
    while not engine.step():
        pass
    return time.perf_counter() - start_s


def submit(engine: Engine, id: str, prompt: Sequence[int], *, tokens: int) -> None:
    """Queue a greedy request for exactly so many tokens."""
    engine.submit(Request(id=id, tokens=tuple(prompt), sampling=Sampling(temperature=0, max_tokens=tokens)))

"""Laws of the server's dialects, counted on a real server with a tiny model: `python -m bench.serve_laws`.

One seed says the same in four dialects, streamed or not; thinking never exceeds its budget, off means none, and a
thinking that is ended from outside ends at once. Writes bench/results/serve_laws.json.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx

from bench.machine import command_of
from octavo.serve import events
from octavo.serve.dialects import chat
from octavo.serve.gate import OpenGate, Tenant
from octavo.serve.http import Desk
from octavo.serve.link import Open
from octavo.serve.models import Models
from octavo.serve.stream import Collected
from tests.serve.asking import CHATS, Case, ask, cases, without_end
from tests.serve.mini import mini_random
from tests.serve.serving import serving

WORKERS, CROWD = 8, 32
Figures = dict[str, Any]


def one_seed_one_reply(client: httpx.Client, count: int) -> Figures:
    """Each case in every dialect that can say it, streamed and not: the same thinking, text, calls, end and usage."""

    def differing(case: Case) -> tuple[int, int, int]:
        asked = [(dialect, stream) for dialect in case.dialects for stream in (False, True)]
        said = [ask(client, case, dialect=dialect, stream=stream) for dialect, stream in asked]
        # A text without a format knows no thinking: where the model began one by itself, it is not compared.
        plain = not said[0].thinking
        pairs = [pair for pair in zip(asked, said, strict=True) if plain or pair[0][0] != "completions"]
        wrong = [what for what, answer in pairs if answer != said[0]]
        if wrong:
            print(f"{case}: {wrong} differ from {asked[0]}: {[said[asked.index(w)] for w in wrong]} {said[0]}")
        return len(wrong), len(pairs), said[0].usage[2] * len(pairs)

    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(differing, cases(count, seed=3, tools=True)))
    wrong, asked, tokens = (sum(column) for column in zip(*found, strict=True))
    return {"cases": count, "requests": asked, "tokens": tokens, "answers that differ": wrong}


def budgets_hold(client: httpx.Client, count: int) -> Figures:
    """Budgets and switches in every spelling of every dialect: reasoning tokens never above what they allow."""
    rng = random.Random(4)
    asked = [(case, rng.choice(CHATS), rng.random() < 0.5, rng.randrange(1 << 30))
             for case in cases(count, seed=5, thinking=True)]  # fmt: skip

    def reasoning(one: tuple[Case, str, bool, int]) -> int:
        case, dialect, stream, seed = one
        return ask(client, case, dialect=dialect, stream=stream, rng=random.Random(seed)).usage[3]

    with ThreadPoolExecutor(WORKERS) as pool:
        spent = list(pool.map(reasoning, asked))
    pairs = [(case, used) for (case, *_), used in zip(asked, spent, strict=True)]
    limited = [(case, used) for case, used in pairs if case.budget is not None]
    off = [used for case, used in pairs if case.most_reasoning == 0]
    return {
        "requests": count, "with a budget": len(limited), "budget reached": sum(u == c.budget for c, u in limited),
        "budget exceeded": sum(used > case.most_reasoning for case, used in pairs), "off or 0": len(off),
        "thought although off": sum(map(bool, off)), "reasoning tokens": sum(spent),
    }  # fmt: skip


def thinking_ends_when_told(desk: Desk, count: int, *, bias: dict[str, float]) -> Figures:
    """Endless thinking, ended from outside: tokens of thinking that came after the order, in the gateway's own process.

    A step that runs when the order comes gives one token more. CROWD requests run at once, so that a step takes longer
    than a busy machine may keep the gateway from reading what the engine has sent.
    """

    async def all_of_them() -> list[int]:
        crowd, rng = asyncio.Semaphore(CROWD), random.Random(6)

        async def one(seed: int) -> int:
            async with crowd:
                return await _late(desk, seed, after=rng.randint(1, 60), bias=bias)

        desk.models.begin()
        try:
            return await asyncio.gather(*(one(seed) for seed in range(count)))
        finally:
            await desk.models.close()

    late = asyncio.run(all_of_them())
    return {"requests": count, "tokens late, at most": max(late), "tokens late": dict(sorted(Counter(late).items()))}


async def _late(desk: Desk, seed: int, *, after: int, bias: dict[str, float]) -> int:
    """Tokens of thinking after the order to end it."""
    body = {"model": "mini-thinking", "messages": [{"role": "user", "content": "Think."}], "max_tokens": 100,
            "seed": seed, "temperature": 1, "logprobs": True, "logit_bias": bias}  # fmt: skip
    asked = chat.decode(json.dumps(body).encode())
    doing = await desk.begin(asked, Tenant(), dialect="chat", request_id=f"{seed}")
    seen, at_order, collected = 0, 0, Collected(replies=1)
    async for batch in doing.stream:
        collected.add(batch)
        seen += sum(len(one.logprobs) for one in batch if isinstance(one, events.Reasoning))
        if seen >= after and not at_order:
            at_order = seen
            doing.stream.end_thinking()
    desk.end(doing, collected)
    assert collected.usage.thinking_stop == "user", collected.usage
    return collected.usage.reasoning_tokens - at_order


def told(name: str, law: Callable[[], Figures], results: Figures) -> Figures:
    """What a law has counted, printed and put with the other results."""
    began_s = time.perf_counter()
    results[name] = {**law(), "seconds": round(time.perf_counter() - began_s, 1)}
    print(f"{name}: {results[name]}", flush=True)
    return results[name]


def main() -> int:
    """All laws. Exit code 1 where one is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    results: dict[str, Any] = {"command": command_of("bench.serve_laws")}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        copytree(mini_random(), folder / "mini-thinking")
        with serving([f"mini={mini_random()}", str(folder / "mini-thinking")], folder=folder) as served:
            bias = without_end(served.client, "mini-thinking")
            seeds = told("one_seed_one_reply", lambda: one_seed_one_reply(served.client, count), results)
            budgets = told("budgets_hold", lambda: budgets_hold(served.client, count), results)
        desk = Desk(Models([Open(str(folder / "mini-thinking"), "mini-thinking")]), OpenGate())
        ends = told("thinking_ends_when_told", lambda: thinking_ends_when_told(desk, count, bias=bias), results)
    path = Path(__file__).with_name("results") / "serve_laws.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    broken = seeds["answers that differ"] + budgets["budget exceeded"] + budgets["thought although off"]
    return 1 if broken or ends["tokens late, at most"] > 2 else 0


if __name__ == "__main__":
    sys.exit(main())

"""One tenant at 50 times the load of each of nine others: `python -m bench.fairness [MODEL]`.

A real server with keys answers nine tenants, who ask at random times; then the same again, with a tenth who asks fifty
times as often as each of them. Bar: the nine's p95 time to first token is at most twice what it was without the tenth,
and each of their requests is answered.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.load_client import FIRST
from bench.machine import command_of, facts
from octavo.weights.hub import packaged_model
from tests.serve.serving import OCTAVO, serving

RESULT = Path(__file__).with_name("results") / "fairness.json"
NORMAL, TIMES = 9, 50
MOST = 2  # times the p95 without the flood
THREADS = "1"  # of the engine: gateway and clients have the other core
WORDS = ("river", "stone", "lamp", "winter", "paper", "green", "quiet", "market", "seven", "bridge", "cloud", "letter",
         "garden", "silver", "early", "train")  # fmt: skip


class Asked(NamedTuple):
    """One request.   first_s   to the first token, 0: none came;   whole_s   to the last;   status   of HTTP"""

    tenant: str
    status: int
    first_s: float
    whole_s: float


class Load(NamedTuple):
    """rate: requests per second of a normal tenant; seconds: of one phase; words, tokens: of prompt and reply."""

    rate: float
    seconds: float
    words: int
    tokens: int


@contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with a key for each tenant: its address and the keys."""
    names = [f"team{i}" for i in range(NORMAL)] + ["flood"]
    env = {**os.environ, "OCTAVO_STATE": str(folder)}
    keys = {
        name: subprocess.run([*OCTAVO, "keys", "create", name], env=env, capture_output=True, text=True, check=True)
        for name in names
    }
    texts = {name: done.stdout.strip() for name, done in keys.items()}
    key = {"authorization": f"Bearer {texts['flood']}"}
    with serving([f"model={model}"], folder=folder, env={"OMP_NUM_THREADS": THREADS}, key=key) as served:
        yield served.url, texts


def times(load: Load, *, tenant: str, rate: float, round_: int) -> list[float]:
    """When a tenant asks: a Poisson process, the same with the flood as without."""
    draw, at_s, found = random.Random(f"when {tenant} {round_}"), 0.0, list[float]()
    while (at_s := at_s + draw.expovariate(rate)) < load.seconds:
        found.append(at_s)
    return found


async def ask(client: httpx.AsyncClient, key: str, *, tenant: str, load: Load, draw: random.Random) -> Asked:
    """One request with a prompt that nobody has sent before, streamed."""
    text = " ".join(draw.choice(WORDS) for _ in range(load.words))
    body = {"model": "model", "messages": [{"role": "user", "content": f"{draw.random()} {text}"}], "stream": True,
            "max_tokens": load.tokens, "temperature": 0}  # fmt: skip
    begin_s, first_s, status = time.perf_counter(), 0.0, 0
    headers = {"authorization": f"Bearer {key}"}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        status = answer.status_code
        async for line in answer.aiter_lines():
            if not first_s and FIRST.search(line.encode()):
                first_s = time.perf_counter() - begin_s
    return Asked(tenant, status, first_s, time.perf_counter() - begin_s)


async def phase(url: str, keys: dict[str, str], load: Load, *, flood: bool, seed: int) -> list[Asked]:
    """All requests of one phase."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begin_s, running = time.perf_counter(), list[asyncio.Task[Asked]]()
        rates = {f"team{i}": load.rate for i in range(NORMAL)} | ({"flood": load.rate * TIMES} if flood else {})
        plan = [
            (at, name)
            for name, rate in rates.items()
            for at in times(load, tenant=name, rate=rate, round_=(seed + 1) // 2)
        ]
        plan.sort()
        for number, (at_s, tenant) in enumerate(plan):
            await asyncio.sleep(max(0.0, begin_s + at_s - time.perf_counter()))
            draw = random.Random(f"{seed} {number} {tenant}")
            running.append(asyncio.create_task(ask(client, keys[tenant], tenant=tenant, load=load, draw=draw)))
        normal = [task for task, (_, tenant) in zip(running, plan, strict=True) if tenant != "flood"]
        await asyncio.gather(*normal)
        await asyncio.sleep(0.5)
        for task in running:
            task.cancel()
        found = await asyncio.gather(*running, return_exceptions=True)
    return [one for one in found if isinstance(one, Asked)]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def summary(found: list[Asked]) -> dict[str, Any]:
    """Figures of one phase; times in seconds."""
    normal = [one for one in found if one.tenant != "flood"]
    firsts = [one.first_s for one in normal if one.status == 200 and one.first_s]
    flood = [one for one in found if one.tenant == "flood"]
    return {
        "normal requests": len(normal), "refused": sum(one.status != 200 for one in normal),
        "without a token": sum(one.status == 200 and not one.first_s for one in normal),
        "p50 first token, s": statistics.median(firsts), "p95 first token, s": p95(firsts),
        "max first token, s": max(firsts),
        "flood answered": sum(one.status == 200 for one in flood),
        "flood refused": sum(one.status != 200 for one in flood),
    }  # fmt: skip


def is_fair(alone: dict[str, Any], crowded: dict[str, Any]) -> bool:
    """Whether the bar is met. A refusal is no fast answer: times are of those who got one."""
    unanswered = sum(phase[name] for phase in (alone, crowded) for name in ("refused", "without a token"))
    return not unanswered and crowded["p95 first token, s"] <= MOST * alone["p95 first token, s"]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Fairness under one tenant's flood.")
    parser.add_argument("model", nargs="?", default=None, help="folder or GGUF file; none: the packaged SmolLM2")
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=16)
    given = parser.parse_args()
    model = given.model or str(packaged_model())
    load = Load(given.rate, given.seconds, given.words, given.tokens)
    found: dict[bool, list[Asked]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, server(model, Path(folder)) as (url, keys):
        asyncio.run(phase(url, keys, load._replace(seconds=5), flood=False, seed=0))
        for number in range(2 * given.rounds):  # in turns: what else the machine does meets both alike
            flood = number % 2 == 1
            found[flood] += asyncio.run(phase(url, keys, load, flood=flood, seed=number + 1))
            print(json.dumps(summary(found[flood])), flush=True)
    alone, crowded = summary(found[False]), summary(found[True])
    ratio = crowded["p95 first token, s"] / alone["p95 first token, s"]
    met = is_fair(alone, crowded)
    print(f"p95 first token beside the flood: {ratio:.2f} x of alone, at most {MOST} and nobody unanswered: "
          f"{'met' if met else 'MISSED'}")  # fmt: skip
    result = {
        "command": command_of("bench.fairness"), "model": Path(model).name, "load": load._asdict(), "times": TIMES,
        "rounds": given.rounds, "engine threads": int(THREADS), "alone": alone, "beside the flood": crowded,
        "ratio": ratio, "met": met, "machine": facts(),
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(not met)


if __name__ == "__main__":
    main()

"""Laws of the server's dialects, counted on a real server with a tiny model: `python -m bench.serve_laws`.

One seed says the same in four dialects, streamed or not; thinking never exceeds its budget, off means none, and a
thinking that is ended from outside ends at once. Writes bench/results/serve_laws.json.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from threading import Thread
from typing import Any

import httpx

from tests.serve.accumulate import sent
from tests.serve.asking import CHATS, Case, ask, cases, without_end
from tests.serve.mini import mini_random
from tests.serve.serving import serving

WORKERS = 8
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


def thinking_ends_when_told(client: httpx.Client, count: int) -> Figures:
    """Endless thinking, ended by another request: tokens of thinking after the order was confirmed, less those on
    their way. Each token is counted as the client reads it, so what waits in sockets counts as late too."""
    late: list[int] = []
    rng, bias = random.Random(6), without_end(client, "mini-thinking")
    for seed in range(count):
        body = {"model": "mini-thinking", "messages": [{"role": "user", "content": "Think."}], "max_tokens": 400,
                "stream": True, "stream_options": {"include_usage": True}, "seed": seed, "temperature": 1,
                "logprobs": True, "logit_bias": bias}  # fmt: skip
        late.append(_late(client, body, after=rng.randint(1, 60)))
    return {"requests": count, "tokens late, at most": max(late), "tokens late": dict(sorted(Counter(late).items()))}


def _late(client: httpx.Client, body: dict[str, Any], *, after: int) -> int:
    """Tokens of thinking after the answer to the order to end it."""
    seen, at_answer, orders, usage = 0, [-1], list[Thread](), dict[str, Any]()

    def order(id: str) -> None:
        assert client.post(f"/v1/requests/{id}/end_thinking").is_success
        at_answer[0] = seen

    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            for chunk in sent(line.encode()):
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    if choice["delta"].get("reasoning") is not None and choice["logprobs"]:
                        seen += len(choice["logprobs"]["content"])
                if seen >= after and not orders:
                    orders.append(Thread(target=order, args=(chunk["id"],)))
                    orders[0].start()
    orders[0].join()
    return max(0, usage["completion_tokens_details"]["reasoning_tokens"] - at_answer[0])


def main() -> int:
    """All laws. Exit code 1 where one is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    results: dict[str, Any] = {"command": "python -m bench.serve_laws"}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        copytree(mini_random(), folder / "mini-thinking")
        with serving([f"mini={mini_random()}", str(folder / "mini-thinking")], folder=folder) as served:
            laws = [(one_seed_one_reply, count), (budgets_hold, count), (thinking_ends_when_told, count // 5)]
            for law, many in laws:
                began_s = time.perf_counter()
                found = law(served.client, many)
                results[law.__name__] = {**found, "seconds": round(time.perf_counter() - began_s, 1)}
                print(f"{law.__name__}: {results[law.__name__]}", flush=True)
    path = Path(__file__).with_name("results") / "serve_laws.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    seeds, budgets, ends = (results[law.__name__] for law, _ in laws)
    broken = seeds["answers that differ"] + budgets["budget exceeded"] + budgets["thought although off"]
    return 1 if broken or ends["tokens late, at most"] > 2 else 0


if __name__ == "__main__":
    sys.exit(main())

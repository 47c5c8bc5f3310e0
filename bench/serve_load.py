"""The server under load, beside llama.cpp's: `python -m bench.serve_load --llama-server PATH`.

Both serve SmolLM2 (the same GGUF file, each in its own best way) to 32 clients that ask again as soon as they are
answered; ours then to five times as many, of whom those that are refused come back when the refusal says (retry-after).
All of that in turns, several rounds, after a first one that does not count. Goodput: tokens of streams that ended well
and began within the patience of a reader (10 s), per second of a window that begins when the crowd has been there for
`LEAD_S` and ends when nobody asks any more: what starts and what runs out is left out, but read to its end. And, ours
alone: what the gateway's process costs per token.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.machine import command_of, facts
from tests.chat.models import smollm2_file
from tests.serve.mini import mini_random
from tests.serve.serving import serving

RESULT = Path(__file__).with_name("results") / "serve_load.json"
CLIENTS, PATIENCE_S = 32, 10.0
LEAD_S = 8.0  # longer than the longest queue
OVERLOAD = "overload"
MARKS = {True: "met", False: "MISSED", None: "not measured"}
SHORT, LONG = 10, 300  # tokens of replies
ENDS = ("<|im_end|>", "<|endoftext|>")  # not to be said: replies are as long as they may be
TOPICS = ("rivers", "bridges", "bread", "clocks", "planets", "trains", "gardens", "letters", "glass", "maps", "tea",
          "winter", "music", "ships", "numbers", "birds")  # fmt: skip
QUESTION = (
    "You are preparing a short guide for visitors who have never thought about {topic} before. Explain in plain words "
    "what {topic} are good for, give one example from daily life, and say what a child of ten should remember. Take "
    "your time, be friendly, avoid lists, and end with one question that makes the reader curious about {topic}."
)


def bodies(model: str, *, tokens: int) -> list[str]:
    """Chat requests that differ from their first words on."""
    told = []
    for i, topic in enumerate(TOPICS):
        message = {"role": "user", "content": f"{i}. {QUESTION.format(topic=topic)}"}
        told.append(json.dumps({"model": model, "messages": [message], "max_tokens": tokens, "temperature": 0.7,
                                "seed": i, "stream": True, "stream_options": {"include_usage": True}}))  # fmt: skip
    return told


def crowd(url: str, requests: Sequence[str], *, clients: int, seconds: float) -> dict[str, Any]:
    """What many clients see.   seconds   of the window that counts"""
    return seen(watched(url, requests, clients=clients, seconds=LEAD_S + seconds)["streams"], seconds=seconds)


def watched(url: str, requests: Sequence[str], *, clients: int, seconds: float) -> dict[str, Any]:
    """Every stream of many clients, in a process of their own."""
    host, port = url.removeprefix("http://").split(":")
    order = {"host": host, "port": int(port), "clients": clients, "seconds": seconds, "bodies": list(requests)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.load_client"], input=json.dumps(order), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def seen(streams: Sequence[dict[str, Any]], *, seconds: float) -> dict[str, Any]:
    """The figures of a crowd: goodput and times of what ended within the window, ends of everything."""
    within = [s for s in streams if LEAD_S <= s["ended_s"] < LEAD_S + seconds]
    good = [s for s in within if s["done"] and s["first_s"] is not None and s["first_s"] <= PATIENCE_S]
    first = sorted(s["first_s"] for s in within if s["first_s"] is not None)
    return {
        "goodput": sum(s["tokens"] for s in good) / seconds, "streams": len(within), "good": len(good),
        "first_p50_s": first[len(first) // 2] if first else None,
        "first_p99_s": first[min(len(first) - 1, int(len(first) * 0.99))] if first else None,
        "statuses": Counter(ending(s) for s in streams),
    }  # fmt: skip


def ending(stream: dict[str, Any]) -> str:
    """How a stream ended: its status, or what was wrong with it."""
    if "error" in stream:
        return stream["error"]
    if stream["status"] == 200:
        return "200" if stream["done"] else "broken off"
    return f"{stream['status']}{'' if stream['retry_after'] else ' without retry-after'}"


@contextmanager
def llama(program: str, model: Path, *, folder: Path) -> Iterator[str]:
    """llama.cpp's server with a slot for every client; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-np", str(CLIENTS),
               "-c", str(CLIENTS * 1024), "-t", str(len(os.sched_getaffinity(0))), "--no-webui"]  # fmt: skip
    with (folder / "llama.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, (folder / "llama.log").read_text()[-2000:]
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def overhead(*, seconds: float, rounds: int) -> dict[str, Any]:
    """Processor time of the gateway per token of long replies, all that belongs to a request included; and, from short
    replies beside them, what a request costs by itself. The model is so small that it answers faster than clients read.
    """
    costs: dict[int, list[tuple[float, int, int]]] = {SHORT: [], LONG: []}  # seconds, requests, tokens
    with tempfile.TemporaryDirectory() as place, serving([f"mini={mini_random()}"], folder=Path(place)) as served:
        ends = [
            served.client.post("/tokenize", json={"model": "mini", "prompt": text}).json()["tokens"] for text in ENDS
        ]
        for _ in range(rounds):
            for size, found in costs.items():
                requests = [
                    json.dumps({**json.loads(body), "logit_bias": {str(id): -100 for one in ends for id in one}})
                    for body in bodies("mini", tokens=size)
                ]
                before = cpu_s(served.process.pid)
                streams = watched(served.url, requests, clients=CLIENTS, seconds=seconds)["streams"]
                spent_s = cpu_s(served.process.pid) - before
                found.append((spent_s, len(streams), sum(s["tokens"] for s in streams)))
    per_token = [spent_s / tokens * 1e6 for spent_s, _, tokens in costs[LONG]]
    (short_s, few, little), (long_s, many, much) = (map(sum, zip(*costs[size], strict=True)) for size in (SHORT, LONG))
    marginal = (long_s - short_s * many / few) / (much - little * many / few)
    return {
        "us_per_token": statistics.median(per_token), "rounds": per_token, "tokens of a reply": LONG,
        "us_per_token_alone": marginal * 1e6, "us_per_request": (short_s - little * marginal) / few * 1e6,
    }  # fmt: skip


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure, print, write. 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="The server under load, beside llama.cpp's.")
    parser.add_argument("--llama-server", default="", help="its program; without it, ours alone")
    parser.add_argument("--seconds", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="bf16", help="how ours keeps the weights: bf16 is its default")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "command": command_of("bench.serve_load"), "rounds of seconds": arguments.seconds, "before them": LEAD_S,
        "machine": facts(),
    }  # fmt: skip
    result["overhead"] = overhead(seconds=5, rounds=arguments.rounds)
    cost = result["overhead"]
    print(f"gateway: {cost['us_per_token']:.1f} us of processor time per token of {LONG}-token replies; a token alone "
          f"{cost['us_per_token_alone']:.1f}, a request alone {cost['us_per_request']:.0f}", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder, model = Path(place), smollm2_file()
        with serving([f"smollm2={model}"], folder=folder, options=["--weights", arguments.weights]) as served:
            result["rounds"] = compared(served.url, arguments, folder=folder, model=model)
    result["bars"] = judged(result)
    for bar in result["bars"]:
        value = "" if bar["value"] is None else f"{bar['value']:.3g}"
        print(f"{bar['bar']:60} {bar['needed']:>10}  {value:>8}  {MARKS[bar['met']]}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bar["met"] is not False for bar in result["bars"]) else 1


def compared(url: str, arguments: argparse.Namespace, *, folder: Path, model: Path) -> dict[str, list[dict[str, Any]]]:
    """Rounds in turns; of the first, which fills the caches, nothing is kept."""
    with ExitStack() as stack:
        crowds = {"octavo": (url, CLIENTS), OVERLOAD: (url, 5 * CLIENTS)}
        if arguments.llama_server:
            theirs = stack.enter_context(llama(arguments.llama_server, model, folder=folder))
            crowds["llama.cpp"] = (theirs, CLIENTS)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in crowds}
        for address in {address for address, _ in crowds.values()}:
            watched(address, bodies("smollm2", tokens=64), clients=CLIENTS, seconds=LEAD_S)
        for _ in range(arguments.rounds):
            for name, (address, clients) in crowds.items():
                told = crowd(address, bodies("smollm2", tokens=64), clients=clients, seconds=arguments.seconds)
                found[name].append(told)
                print(f"{name:10} {told['goodput']:7.1f} tok/s, first token p50 {told['first_p50_s']:.2f} s, "
                      f"p99 {told['first_p99_s']:.2f} s, {dict(told['statuses'])}", flush=True)  # fmt: skip
    return found


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars of the issue that load decides; None where llama.cpp's server was not there to compare with."""
    middle = {
        name: {key: statistics.median(r[key] for r in rounds) for key in ("goodput", "first_p50_s", "first_p99_s")}
        for name, rounds in result["rounds"].items()
    }  # fmt: skip
    ours, theirs = middle["octavo"], middle.get("llama.cpp")
    bars = [bar("gateway, us of processor time per token", result["overhead"]["us_per_token"], most=25)]
    ratio = ours["goodput"] / theirs["goodput"] if theirs else None
    bars.append(bar("goodput, 32 clients, over llama.cpp's", ratio, least=1))
    for key in ("first_p50_s", "first_p99_s"):
        bars.append(bar(f"{key}, llama.cpp's over ours", theirs[key] / ours[key] if theirs else None, least=1))
    bars.append(bar("overload x5: goodput of peak", middle[OVERLOAD]["goodput"] / ours["goodput"], least=0.9))
    ends = sum((Counter(one["statuses"]) for one in result["rounds"][OVERLOAD]), Counter[str]())
    wrong = sum(count for status, count in ends.items() if status not in ("200", "429", "503"))
    bars.append(bar("overload x5: streams neither answered nor refused", wrong, most=0))
    return bars


def bar(name: str, value: float | None, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """One bar.   value   None: not measured, so neither met nor missed"""
    met = None if value is None else (least is None or value >= least) and (most is None or value <= most)
    return {"bar": name, "needed": f">= {least}" if most is None else f"<= {most}", "value": value, "met": met}


if __name__ == "__main__":
    sys.exit(main())

"""Clients that leave: `python -m bench.storms` sends a server 1,000 requests and goes away at random moments.

Several at once, in several dialects: before the head is whole, in the body, while the prompt is computed, in the middle
of the answer, between two requests of a connection, with half of the connection closed, with a reset. Afterwards no job
may run, no page be held, no descriptor be left in either process, memory be as it was, and what was answered before
be answered again.
"""

import argparse
import json
import os
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import command_of, facts
from bench.serve_fuzz import engine_of, memory_mb
from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

RESULT = Path(__file__).with_name("results") / "storms.json"
AT_ONCE = 16
TALKS = 100  # different requests, so that the tree of known prompts stops growing
GROWTH_MB = 16  # of either process, after the first quarter, the engine's cache not counted
REST_S = 15.0  # until all is given back: idle connections of clients that are gone are closed after 5
ASKED = {"model": "mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "seed": 1}
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions", "/v1/embeddings")
WAYS = ("in the head", "in the body", "in the prompt", "in the answer", "between requests", "half closed", "reset")


class Left(NamedTuple):
    """One client.   way   when it left;   heard   bytes that it had by then"""

    way: str
    heard: int


def asking(number: int) -> tuple[str, bytes]:
    """Path and body of a request with a prompt of some or of thousands of tokens, whose answer takes a while."""
    draw = random.Random(number)
    path = PATHS[number % len(PATHS)]
    text = " ".join(f"word{draw.randrange(10**6)}" for _ in range(draw.choice((1, 5, 40, 200, 400))))
    value: dict[str, Any] = {"model": "mini", "stream": draw.random() < 0.7, "seed": number}
    talk = [{"role": "user", "content": text}]
    match path.rpartition("/")[2]:
        case "responses":
            value |= {"input": text, "max_output_tokens": 600, "store": draw.random() < 0.5}
        case "messages":
            value |= {"messages": talk, "max_tokens": 600}
        case "embeddings":
            value = {"model": "mini", "input": [text, "Hello"]}
        case _:
            value |= {"max_tokens": 600, "n": draw.choice((1, 1, 3))}
            value |= {"messages": talk} if "chat" in path else {"prompt": text}
    return path, json.dumps(value).encode()


def request(path: str, data: bytes) -> bytes:
    """Its bytes on the wire."""
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" \
           f"Content-Length: {len(data)}\r\n\r\n".encode() + data  # fmt: skip


def leave(number: int, address: tuple[str, int]) -> Left:
    """One client, the same for a number, always; but what it has heard when it goes is the machine's luck."""
    draw, way = random.Random(-number), WAYS[number % len(WAYS)]
    whole = request(*asking(number % TALKS))
    head = whole.index(b"\r\n\r\n") + 4
    heard = 0
    with socket.create_connection(address, timeout=60) as sock:
        match way:
            case "in the head":
                sock.sendall(whole[: draw.randrange(head)])
            case "in the body":
                sock.sendall(whole[: draw.randrange(head, len(whole))])
                time.sleep(draw.random() * 0.01)
            case "in the prompt":
                sock.sendall(whole)
                time.sleep(draw.random() * 0.05)
            case "in the answer":
                sock.sendall(whole)
                heard = read(sock, draw.choice((1, 300, 2000, 20_000)))
            case "between requests":
                sock.sendall(request("/tokenize", b'{"model":"mini","prompt":"Hello"}'))
                heard = read(sock, 1)
                sock.sendall(whole[: draw.choice((0, 0, head, len(whole)))])
            case "half closed":
                sock.sendall(whole)
                sock.shutdown(socket.SHUT_WR)
                heard = read(sock, draw.choice((1, 2000)))
            case _:
                sock.sendall(whole)
                heard = read(sock, draw.choice((0, 1, 500)))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return Left(way, heard)


def read(sock: socket.socket, most: int) -> int:
    """Listen until so many bytes are here, or no more will come."""
    heard = 0
    try:
        while heard < most and (data := sock.recv(min(4096, most - heard))):
            heard += len(data)
    except ConnectionError:
        return heard  # it was closed at the other end, as half a connection may be
    return heard


class State(NamedTuple):
    """A server.   busy   jobs in it;   held   share of the engine's pages in use;   descriptors   of each process"""

    busy: float
    held: float
    descriptors: tuple[int, ...]

    @classmethod
    def of(cls, served: Served) -> "State":
        """As it is now."""
        text = served.client.get("/metrics").text
        running, waiting, held = (
            sum(float(value) for value in re.findall(rf"^octavo:{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        )
        load = served.client.get("/load").json()["server_load"]
        return cls(running + waiting + load, held, tuple(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids(served)))


def pids(served: Served) -> tuple[int, int]:
    """The gateway's process, and the engine's."""
    return served.process.pid, engine_of(served)


def resident_mb(pid: int) -> float:
    """Resident memory of a process, but for its largest mapping: the engine's cache, which fills as pages are used for
    the first time, whoever uses them, and whose pages are counted by themselves.
    """
    sizes = re.findall(
        r"^Size: +(\d+) kB(?:.|\n)*?^Rss: +(\d+) kB", Path(f"/proc/{pid}/smaps").read_text(), re.MULTILINE
    )
    return memory_mb(pid) - int(max(sizes, key=lambda one: int(one[0]))[1]) / 1024


def rested(served: Served, *, descriptors: tuple[int, ...]) -> State:
    """The server once it has given all back, or as it is when its time for that is over.

    descriptors   at most so many, to be at rest
    """
    end_s = time.monotonic() + REST_S
    while True:
        time.sleep(0.3)  # the engine tells of itself every 0.25 s
        state = State.of(served)
        free = all(found <= most for found, most in zip(state.descriptors, descriptors, strict=True))
        if (free and not state.busy and not state.held) or time.monotonic() > end_s:
            return state


def storm(served: Served, count: int) -> dict[str, Any]:
    """`count` clients come and leave. What the server was before and is after, and what each kind of client heard."""
    host, port = served.url.removeprefix("http://").split(":")
    first = answered(served)
    before, engine = State.of(served), engine_of(served)
    memory, left = list[tuple[float, ...]](), list[Left]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for quarter in range(4):
            numbers = range(count * quarter // 4, count * (quarter + 1) // 4)
            left += pool.map(lambda number: leave(number, (host, int(port))), numbers)
            memory.append(tuple(resident_mb(pid) for pid in pids(served)))
    after = rested(served, descriptors=before.descriptors)
    heard = {way: sum(one.heard > 0 for one in left if one.way == way) for way in WAYS}
    return {
        "clients": count, "at_once": AT_ONCE, "ways": Counter(one.way for one in left), "heard_something": heard,
        "before": before._asdict(), "after": after._asdict(), "resident_mb_by_quarter": memory,
        "growth_mb": [last - first for first, last in zip(memory[0], memory[-1], strict=True)],
        "same_engine": engine_of(served) == engine, "same_answer": answered(served) == first,
    }  # fmt: skip


def answered(served: Served) -> Any:
    """What a request is answered, but for what names and times it."""
    reply = served.client.post("/v1/chat/completions", json=ASKED).json()
    return reply["choices"], {name: reply["usage"][name] for name in ("prompt_tokens", "completion_tokens")}


def faults(found: dict[str, Any]) -> list[str]:
    """What is not as it was."""
    before, after = found["before"], found["after"]
    wrong = ["jobs still run"] if after["busy"] else []
    wrong += ["pages are still held"] if after["held"] else []
    if any(a > b for a, b in zip(after["descriptors"], before["descriptors"], strict=True)):
        wrong.append("descriptors are left")
    wrong += ["memory grew"] if max(found["growth_mb"]) > GROWTH_MB else []
    wrong += [] if found["same_engine"] else ["the engine died"]
    return wrong + ([] if found["same_answer"] else ["the answer is another one"])


def main() -> int:
    """Storm, print, write. 1 where something is left."""
    parser = argparse.ArgumentParser(description="Clients that leave at random moments.")
    parser.add_argument("--clients", type=int, default=1000)
    count = parser.parse_args().clients
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, serving([f"mini={mini_random()}"], folder=Path(folder)) as served:
        found = storm(served, count)
    wrong = faults(found)
    result = {"command": command_of("bench.storms"), **found, "faults": wrong, "took_s": time.perf_counter() - began_s,
              "machine": facts()}  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{count} clients left, by when: {dict(found['ways'])}; {', '.join(wrong) or 'nothing is left of them'}; "
          f"descriptors {found['before']['descriptors']} -> {found['after']['descriptors']}, memory grew by "
          f"{', '.join(f'{mb:.1f}' for mb in found['growth_mb'])} MB")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

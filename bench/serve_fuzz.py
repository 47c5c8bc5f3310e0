"""Damaged requests: `python -m bench.serve_fuzz` sends a server 10,000 spoiled bodies and 5,000 of schemathesis.

No answer may be a 5xx, the engine's process has to live on, the memory of both processes to stay as it is, and what was
answered before to be answered again. `--case N` sends one spoiled body again and prints what came back. schemathesis is
taken from .clients/py, or from --schemathesis; without it that part is left out, and the result says so.
"""

import argparse
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.machine import facts
from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served, serving

RESULT = Path(__file__).with_name("results") / "serve_fuzz.json"
CONTEXT = 480  # tokens: replies without an end are short
GROWTH_MB = 48  # of either process, after the first tenth
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "unsupported_method")  # fmt: skip
TALK = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
BASES: dict[str, dict[str, Any]] = {  # by the end of the path; what else takes bodies gets the first one
    "/chat/completions": {
        "model": "mini", "messages": TALK, "max_tokens": 4, "temperature": 1.0, "seed": 1, "stop": ["x"], "n": 1,
        "stream": True, "tools": [TOOL], "tool_choice": "auto", "logit_bias": {"5": 1}, "logprobs": True,
        "top_logprobs": 2, "response_format": {"type": "text"}, "metadata": {"a": "b"}, "thinking_budget": 2,
        "stream_options": {"include_usage": True}, "chat_template_kwargs": {"enable_thinking": False},
    },
    "/completions": {"model": "mini", "prompt": "Hello", "max_tokens": 4, "logprobs": 1, "stream": True, "echo": True,
                     "structured_outputs": {"regex": "[ab]+"}},
    "/responses": {"model": "mini", "input": "Hello", "max_output_tokens": 4, "stream": True, "instructions": "Be.",
                   "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "tools": []},
    "/messages": {"model": "mini", "messages": TALK, "max_tokens": 4, "system": "Be.", "stop_sequences": ["x"],
                  "thinking": {"type": "enabled", "budget_tokens": 2}, "stream": True, "metadata": {"user_id": "u"}},
    "/embeddings": {"model": "mini", "input": ["Hello", "you"], "encoding_format": "float"},
    "/decisions": {"model": "mini", "input": "Hello", "questions": [{"id": "a", "type": "boolean", "question": "?"}]},
    "/tokenize": {"model": "mini", "prompt": "Hello", "add_special_tokens": True},
    "/detokenize": {"model": "mini", "tokens": [1, 2, 3]},
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 129, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**40, -(10**30), 0.5, -0.0, 1e-300,
    1e300, "", "x", "\x00", "\r\n", "a" * 10_000, "../../x", "<|im_end|>", "</think>", "\u202e", [], [None], [[]], {},
    {"": ""}, {"type": "x"}, [1] * 3000, {"$ref": "#"}, [{"role": "tool"}], {"role": "user", "content": [{"type": 1}]},
    "none", "required", {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"type": "json_schema"}, "-1", "NaN",
)  # fmt: skip
RAW = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0x1", b"01", b"1" * 5000, b'"\\ud800"', b'"\\udc00x"',
       b'"\xff\xfe"', b'"\xed\xa0\x80"', b"[" * 3000, b'{"a":' * 500, b"[" * 200 + b"]" * 200, b'"\\u0000"', b"'x'",
       b"", b"\xef\xbb\xbf", b"//", b"{}{}", b'{"model":1,"model":2}')  # fmt: skip
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x" * 300,
         "application/json; charset=utf-16", "application/octet-stream")  # fmt: skip
WAYS = ("whole",) * 12 + ("pieces", "half closed", "pipelined", "left", "chunked", "short", "long", "gzip")
# Ways in which the answer may be lost, for nobody stays, or the connection closes while bytes are still under way.
UNHEARD = ("left", "short", "half closed", "pieces")


class Case(NamedTuple):
    """One attempt.   way: how the bytes travel"""

    path: str
    body: bytes
    type: str
    way: str


def made(number: int, paths: list[str]) -> Case:
    """The same for a number, always."""
    draw = random.Random(number)
    path = paths[number % len(paths)]
    base = next((body for end, body in BASES.items() if path.endswith(end)), BASES["/chat/completions"])
    value = json.loads(json.dumps(base))
    if draw.random() < 0.75:
        for _ in range(draw.choice((1, 1, 2, 4))):
            swap(value, draw)
    data = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if draw.random() < 0.4:
        data = damaged(data, draw)
    type = "application/json" if draw.random() < 0.8 else draw.choice(TYPES)
    return Case(path, data, type, draw.choice(WAYS))


def swap(value: Any, draw: random.Random) -> None:
    """Put something else in one place, take a key away, add one, or wrap what is there."""
    places = list(inside(value))
    if not places:
        return
    holder, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.6:
        holder[key] = deepcopy(draw.choice(VALUES))
    elif kind < 0.7 and isinstance(holder, dict):
        del holder[key]
    elif kind < 0.8 and isinstance(holder, dict):
        holder[draw.choice(("", "x\r\ny", "top_k", "model", "echo", "é" * 50, "regex"))] = deepcopy(draw.choice(VALUES))
    elif kind < 0.9:
        for _ in range(draw.choice((1, 3, 70, 130, 300))):
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}
    else:
        holder[key] = [deepcopy(holder[key]) for _ in range(draw.choice((2, 17, 300)))]


def inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a JSON value: (holder, key)."""
    for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from inside(inner)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut, or put in."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = draw.randrange(len(out)) if out else 0
        match draw.randrange(4):
            case 0 if out:
                out[at] ^= 1 << draw.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = draw.choice(RAW)
            case _:
                end = out.find(b",", at)
                out[at : end if end > 0 else at] = draw.choice(RAW)
    return bytes(out)


def send(case: Case, address: tuple[str, int]) -> list[int]:
    """The statuses that came back; none where nobody stayed to read them."""
    size = {"short": len(case.body) + 50, "long": max(0, len(case.body) - 10)}.get(case.way, len(case.body))
    length = f"Content-Length: {size}\r\n"
    if case.way == "chunked":
        length, body = "Transfer-Encoding: chunked\r\n", b"%x\r\n" % len(case.body) + case.body + b"\r\n0\r\n\r\n"
    else:
        body = case.body
    coding = "Content-Encoding: gzip\r\n" if case.way == "gzip" else ""
    last = "" if case.way == "pipelined" else "Connection: close\r\n"
    head = f"POST {case.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {case.type}\r\n{coding}{length}"
    data = f"{head}{last}\r\n".encode() + body
    if case.way == "pipelined":
        data = data + f"{head}Connection: close\r\n\r\n".encode() + body
    with socket.create_connection(address, timeout=60) as sock:
        found = b""
        try:
            put(sock, data, case)
            while case.way != "left" and (piece := sock.recv(1 << 16)):
                found += piece
        except (ConnectionResetError, BrokenPipeError):
            return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]


def put(sock: socket.socket, data: bytes, case: Case) -> None:
    """Bytes on their way, as the case wants it."""
    if case.way == "pieces":
        for start in range(0, len(data), max(1, len(data) // 5)):
            sock.sendall(data[start : start + max(1, len(data) // 5)])
            time.sleep(0.002)
    else:
        sock.sendall(data)
    if case.way in ("half closed", "short"):
        sock.shutdown(socket.SHUT_WR)


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def engine_of(served: Served) -> int:
    """The process id of the engine."""
    task = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    return int(task.read_text().split()[-1])


@contextmanager
def server() -> Iterator[Served]:
    """A server with a small model of a short context."""
    with tempfile.TemporaryDirectory() as made_in:
        folder = Path(made_in) / "model"
        shutil.copytree(mini_qwen3(), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
        with serving([f"mini={folder}"], folder=Path(made_in), options=["--log", "json"]) as served:
            yield served


def answer(served: Served) -> Any:
    """What the model says to one fixed request."""
    body = {"model": "mini", "messages": TALK, "max_tokens": 16, "seed": 5, "temperature": 1}
    return served.client.post("/v1/chat/completions", json=body).json()["choices"]


def posts(served: Served) -> list[str]:
    """All paths that take bodies, with something in the place of their parameters."""
    document = served.client.get("/openapi.json").json()
    return [re.sub(r"\{\w+\}", "x", path) for path, methods in document["paths"].items() if "post" in methods]


def spoil(served: Served, count: int, *, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Send spoiled bodies; what came back, and how the server is afterwards."""
    paths, engine, before = posts(served), engine_of(served), answer(served)
    url = httpx.URL(served.url)
    address = (url.host, url.port or 80)
    statuses, faults, unanswered = Counter[int](), list[str](), 0
    memory = {"server": 0.0, "engine": 0.0}
    with ThreadPoolExecutor(4) as pool:
        for start, end in ((0, count // 10), (count // 10, count)):
            cases = [made(number, paths) for number in range(start, end)]
            for number, (case, found) in enumerate(
                zip(cases, pool.map(send, cases, [address] * len(cases)), strict=True)
            ):
                statuses.update(found)
                unanswered += not found and case.way not in UNHEARD
                if any(status >= 500 for status in found):
                    faults.append(f"case {start + number}: {case.way} {case.path} {found}")
                    report(faults[-1])
            sizes = {"server": memory_mb(served.process.pid), "engine": memory_mb(engine)}
            memory = {name: round(size - memory[name], 1) for name, size in sizes.items()}
    return {
        "bodies": count, "paths": paths, "statuses": {str(s): n for s, n in sorted(statuses.items())}, "faults": faults,
        "unanswered": unanswered, "same_engine": engine_of(served) == engine, "same_answer": answer(served) == before,
        "growth_mb": memory,
    }  # fmt: skip


def schemathesis(served: Served, program: Path, examples: int) -> dict[str, Any]:
    """Requests that schemathesis makes of /openapi.json, until it made so many. What it found, in its own words."""
    if not program.exists():
        return {"examples": 0, "left_out": f"{program.name} is not there"}
    cases, failed, seed = 0, list[str](), 0
    while cases < examples and not failed:
        seed += 1
        command = [str(program.absolute()), "run", f"{served.url}/openapi.json", "--checks", ",".join(CHECKS),
                   "--seed", str(seed), "--max-examples", "40",
                   "--phases", "coverage,fuzzing" if seed == 1 else "fuzzing",
                   "--request-timeout", "60", "--workers", "4"]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:  # it leaves files where it works
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        cases += sum(map(int, re.findall(r"(\d+) generated", done.stdout)))
        if done.returncode:
            failed = [line for line in done.stdout.splitlines() if line.strip()][-60:]
    return {"examples": cases, "runs": seed, "failures": failed}


def well(found: dict[str, Any]) -> bool:
    """Whether a result keeps the promise."""
    grown = max(found["spoiled"]["growth_mb"].values())
    bodies, made_up = found["spoiled"], found["schemathesis"]
    return (
        not bodies["faults"] and bodies["same_engine"] and bodies["same_answer"] and not bodies["unanswered"]
        and grown < GROWTH_MB and not made_up.get("failures")
    )  # fmt: skip


def main() -> int:
    """Print what came back, write bench/results/serve_fuzz.json; 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=5_000)
    parser.add_argument("--schemathesis", type=Path, default=Path(".clients/py/bin/schemathesis"))
    parser.add_argument("--case", type=int, help="send this one alone")
    options = parser.parse_args()
    with server() as served:
        if options.case is not None:
            case = made(options.case, posts(served))
            url = httpx.URL(served.url)
            print(case, send(case, (url.host, url.port or 80)), served.log.read_text(), sep="\n")
            return 0
        began_s = time.perf_counter()
        found = {"spoiled": spoil(served, options.bodies),
                 "schemathesis": schemathesis(served, options.schemathesis, options.examples)}  # fmt: skip
        seconds = round(time.perf_counter() - began_s, 1)
    print(json.dumps(found, indent=1))
    command = f"python -m bench.serve_fuzz --bodies {options.bodies} --examples {options.examples}"
    result = {"command": command, "machine": facts(), "seconds": seconds, "well": well(found), **found}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if well(found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Damaged model files: `python -m bench.fuzz_files` spoils thousands, opens and loads each, and counts what happens.

A case passes where everything loads with its right shape, or an OctavoError is raised and the model is untouched. Each
runs in a worker process that has a limit on time and on memory; `--case KIND:NUMBER` runs one of them here, to see why.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from octavo.core.errors import OctavoError
from octavo.models import skeleton
from octavo.text.tokenizer import Tokenizer
from octavo.weights import load_weights, open_checkpoint

TIME_LIMIT_S = 20.0
MEMORY_LIMIT_BYTES = 2 << 30  # of address space, beyond what the worker has when it begins
EXTREMES = (0, 1, 2, 7, 31, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1,
            1 << 63, (1 << 64) - 1)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 63, 65, 1 << 24, 1 << 31, 1 << 62, 10**30, -(1 << 63), 0.0, -0.5, 1e-300, 1e300,
    float("nan"), float("inf"), "", "x", "\ud800", "../../x", "\x00", [], [None], {}, {"rope_type": "yarn"}, [[[[]]]],
    "a" * 10_000, list(range(3000)),
)  # fmt: skip


class Target(NamedTuple):
    """A file that is spoiled: of a folder that holds a whole model, or a GGUF file by itself."""

    model: str
    file: str


TARGETS = {
    "safetensors": Target("dense", "model.safetensors"),
    "safetensors, experts": Target("experts", "model.safetensors"),
    "safetensors, shard": Target("sharded", "model-00002-of-00003.safetensors"),
    "config.json": Target("dense", "config.json"),
    "config.json, experts": Target("experts", "config.json"),
    "index": Target("sharded", "model.safetensors.index.json"),
    "tokenizer.json": Target("dense", "tokenizer.json"),
    "tokenizer_config.json": Target("dense", "tokenizer_config.json"),
    "GGUF, F32": Target("llama-F32", "model.gguf"),
    "GGUF, Q4_K": Target("qwen2-Q4_K", "model.gguf"),
    "GGUF, experts, Q8_0": Target("qwen3moe-Q8_0", "model.gguf"),
}  # fmt: skip


def make_models(folder: Path) -> None:
    """Whole models to spoil, each some hundred kilobytes."""
    from bench import parity  # imports transformers, which the workers do without
    from tests.weights.gguf_files import write_gguf, write_tokenizer

    kinds = {"dense": ("Qwen3, tied", parity.Layout()), "experts": ("Qwen3-MoE", parity.Layout(experts="each")),
             "sharded": ("Llama, biases", parity.Layout(files="sharded"))}  # fmt: skip
    for name, (family, layout) in kinds.items():
        (folder / f"{name}.made").mkdir(parents=True)
        made = parity.write(parity.oracle(family), folder / f"{name}.made", layout=layout)
        write_tokenizer(made)
        made.rename(folder / name)
    for target in TARGETS.values():
        if target.file == "model.gguf":
            architecture, _, kind = target.model.partition("-")
            (folder / target.model).mkdir()
            write_gguf(folder / target.model / target.file, architecture, kind=kind, tied=True, tokenizer=True)


def spoil(data: bytes, *, draw: random.Random, text: bool) -> bytes:
    """A damaged copy. Binary files are hit in their head half of the time, for that is where the structure is."""
    if text and draw.random() < 0.7:
        return spoil_json(data, draw=draw)
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 30))):
        DAMAGES[draw.randrange(len(DAMAGES))](out, draw)
    return bytes(out)


def somewhere(out: bytearray, draw: random.Random) -> int:
    head = int.from_bytes(out[:8], "little") if out[:4] != b"GGUF" else 12_000
    end = min(len(out), head + 8) if draw.random() < 0.6 else len(out)
    return draw.randrange(min(end, 48) if draw.random() < 0.2 and end else end) if end else 0


def flip(out: bytearray, draw: random.Random) -> None:
    place = somewhere(out, draw)
    if out:
        out[place] ^= 1 << draw.randrange(8)


def overwrite(out: bytearray, draw: random.Random) -> None:
    """What a length, count, offset or type may be taken for."""
    kind = draw.choice("BHIQ")
    size, place = struct.calcsize(f"<{kind}"), somewhere(out, draw)
    value = draw.choice(EXTREMES) & ((1 << 8 * size) - 1)
    if place + size <= len(out):
        out[place : place + size] = struct.pack(f"<{kind}", value)


def count_up(out: bytearray, draw: random.Random) -> None:
    """A number that is off by a little."""
    place = somewhere(out, draw)
    if place + 8 <= len(out):
        value = int.from_bytes(out[place : place + 8], "little") + draw.choice((-32, -8, -1, 1, 8, 32))
        out[place : place + 8] = (value % (1 << 64)).to_bytes(8, "little")


def cut(out: bytearray, draw: random.Random) -> None:
    del out[draw.choice((somewhere(out, draw), max(0, len(out) - draw.randrange(1, 64)))) :]


def remove(out: bytearray, draw: random.Random) -> None:
    place = somewhere(out, draw)
    del out[place : place + draw.choice((1, 4, 8, 100))]


def insert(out: bytearray, draw: random.Random) -> None:
    place = somewhere(out, draw)
    out[place:place] = draw.choice((b"\0" * 8, b"[" * 20_000, b'{"a":' * 5_000, b"\xff" * 64, draw.randbytes(16)))


def repeat(out: bytearray, draw: random.Random) -> None:
    """The same key twice, the same tensor twice."""
    place = somewhere(out, draw)
    part = out[place : place + draw.choice((8, 40, 200, 2000))]
    out[place:place] = part


def exchange(out: bytearray, draw: random.Random) -> None:
    """Digits, for shapes and offsets written as text; any two bytes otherwise."""
    places = [somewhere(out, draw) for _ in range(40)]
    digits = [place for place in places if place < len(out) and chr(out[place]).isdigit()]
    if digits:
        out[digits[0]] = ord(draw.choice("0123456789"))
    elif len(out) > 1:
        out[places[0]], out[places[1]] = out[places[1]], out[places[0]]


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, flip, overwrite, overwrite, count_up, cut, remove, insert, repeat, exchange,
)  # fmt: skip


def spoil_json(data: bytes, *, draw: random.Random) -> bytes:
    """Well-formed JSON of another meaning."""
    value = json.loads(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(walk(value))
        owner, key = draw.choice(places[: draw.choice((12, len(places)))])
        damage = draw.randrange(6)
        if damage < 3:
            owner[key] = draw.choice(VALUES)
        elif damage == 3:
            owner.pop(key)
        elif damage == 4:
            other, place = draw.choice(places)
            owner[key] = json.loads(json.dumps(other.get(place) if isinstance(other, dict) else None))
        elif isinstance(owner[key], (int, float)) and not isinstance(owner[key], bool):
            owner[key] = draw.choice((owner[key] + 1, owner[key] * 2, owner[key] / 3, -owner[key], str(owner[key])))
        if not any(True for _ in walk(value)):
            break
    text = json.dumps(value)
    if draw.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + ", " + text[1:]  # every key twice
    return text.encode("utf-8", "surrogatepass")


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (owner, key) of a JSON value, outermost first."""
    waiting = [value]
    while waiting:
        owner = waiting.pop(0)
        for key in list(owner) if isinstance(owner, dict) else range(min(len(owner), 20)):
            yield owner, key
            if isinstance(owner[key], (dict, list)):
                waiting.append(owner[key])


def run_case(models: Path, kind: str, number: int) -> dict[str, str]:
    """Spoil one file and use it. Stage -> "loaded", "refused: ...", or what went wrong."""
    target, draw = TARGETS[kind], random.Random(f"{kind}:{number}")
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        folder = Path(place) / "model"
        shutil.copytree(models / target.model, folder)
        if number >= 0:  # -1: the file as it was
            data = (folder / target.file).read_bytes()
            (folder / target.file).write_bytes(spoil(data, draw=draw, text=target.file.endswith(".json")))
        path = folder / target.file if target.file.endswith(".gguf") else folder
        return {"weights": attempt(lambda: load_model(path)), "tokenizer": attempt(lambda: load_tokenizer(path))}


def attempt(stage: Callable[[], str]) -> str:
    try:
        return stage()
    except OctavoError as cause:
        return f"refused: {type(cause).__name__}" if len(str(cause)) < 2000 else "a message of more than 2,000 letters"
    except Exception as cause:
        if "--case" in sys.argv:
            traceback.print_exc()
        if isinstance(cause, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(cause.__traceback__)[-1]
        return f"{type(cause).__name__} at {Path(where.filename).name}:{where.lineno}: {str(cause)[:100]}"


def load_model(path: Path) -> str:
    """Weights: all or nothing."""
    checkpoint = open_checkpoint(path)
    model = skeleton(checkpoint.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    try:
        load_weights(checkpoint, model, dtype=torch.bfloat16)
    except OctavoError:
        touched = [name for name, parameter in model.named_parameters() if not parameter.is_meta]
        if touched:
            return f"half-loaded: {len(touched)} of {len(shapes)} parameters"
        raise
    for name, parameter in model.named_parameters():
        if parameter.is_meta or parameter.shape != shapes[name]:
            return f"half-loaded: {name} is {parameter.device} {tuple(parameter.shape)}"
        parameter.float().sum()  # every byte is read
    return "loaded"


def load_tokenizer(path: Path) -> str:
    """The tokenizer, and a word through it."""
    if path.suffix == ".gguf":
        source = open_checkpoint(path).tokenizer_source
        assert not isinstance(source, Path)
        tokenizer = Tokenizer.from_gguf_fields(source)
    else:
        tokenizer = Tokenizer.from_folder(path)
    tokenizer.decode(tokenizer.encode("abc cab <|a|> Zürich"))
    return "loaded"


def status_kb(field: str) -> int:
    """Of this process alone: getrusage would count what its parent had before it started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def work(models: Path, pipe: Connection) -> None:
    """A worker's life: cases in, outcomes out."""
    torch.set_num_threads(1)
    for kind in TARGETS:  # so that what is imported late is there before the limit is
        assert set(run_case(models, kind, -1).values()) == {"loaded"}, (kind, run_case(models, kind, -1))
    limit = status_kb("VmSize") * 1024 + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    base = status_kb("VmHWM")
    pipe.send("ready")
    while (case := pipe.recv()) is not None:
        begin = time.perf_counter()
        outcome = run_case(models, *case)
        peak = status_kb("VmHWM") - base
        pipe.send({"stages": outcome, "peak_kb": peak, "seconds": time.perf_counter() - begin})


class Pool:
    """One worker at a time, replaced when it dies or hangs."""

    def __init__(self, models: Path) -> None:
        self.models, self.context = models, multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        self.pipe, other = self.context.Pipe()
        self.process = self.context.Process(target=work, args=(self.models, other), daemon=True)
        self.process.start()
        other.close()
        assert self.pipe.poll(300) and self.pipe.recv() == "ready", "the worker does not start: see above"

    def run(self, kind: str, number: int) -> dict[str, Any]:
        try:
            self.pipe.send((kind, number))
            if self.pipe.poll(TIME_LIMIT_S):
                return self.pipe.recv()
            fault = "hang"
        except (EOFError, ConnectionError):
            self.process.join()
            fault = f"crash: exit code {self.process.exitcode}"
        self.stop()
        self.start()
        return {"stages": {"worker": fault}, "peak_kb": 0, "seconds": TIME_LIMIT_S}

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def verdict(stages: dict[str, str]) -> str:
    """loaded, refused, or the kind of failure."""
    for outcome in stages.values():
        for kind in ("hang", "crash", "half-loaded"):
            if outcome.startswith(kind):
                return kind
        if outcome != "loaded" and not outcome.startswith("refused: "):
            return "other exception"
    return "loaded" if set(stages.values()) == {"loaded"} else "refused"


def fuzz(files: int, *, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Run `files` cases, spread over the targets. Returns the counts."""
    counts = {kind: Counter[str]() for kind in TARGETS}
    faults, errors = list[dict[str, Any]](), Counter[str]()
    peak_kb, slowest_s = 0, 0.0
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        make_models(folder)
        pool = Pool(folder)
        for index in range(files):
            kind, number = list(TARGETS)[index % len(TARGETS)], index // len(TARGETS)
            done = pool.run(kind, number)
            result = verdict(done["stages"])
            counts[kind][result] += 1
            errors.update(value for value in done["stages"].values() if value.startswith("refused"))
            peak_kb, slowest_s = max(peak_kb, done["peak_kb"]), max(slowest_s, done["seconds"])
            if result not in ("loaded", "refused"):
                faults.append({"case": f"{kind}:{number}", **done["stages"]})
                report(f"FAIL {faults[-1]}")
        pool.stop()
    finally:
        shutil.rmtree(folder)
    total = sum(counts.values(), Counter[str]())
    return {
        "files": files, "loaded": total["loaded"], "refused": total["refused"], "crash": total["crash"],
        "hang": total["hang"], "other_exception": total["other exception"], "half_loaded": total["half-loaded"],
        "max_rss_growth_mb": round(peak_kb / 1024, 1), "slowest_s": round(slowest_s, 3),
        "targets": {kind: dict(count) for kind, count in counts.items()}, "errors": dict(errors), "faults": faults,
    }  # fmt: skip


def main() -> int:
    """Print the table, write bench/results/fuzz_files.json; 1 where a case failed."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--case", help="one case, such as 'config.json:17', in this process")
    options = parser.parse_args()
    if options.case:
        kind, _, number = options.case.rpartition(":")
        with tempfile.TemporaryDirectory() as folder:
            make_models(Path(folder))
            print(run_case(Path(folder), kind, int(number)))
        return 0
    begin = time.perf_counter()
    found = fuzz(options.files)
    columns = ("loaded", "refused", "crash", "hang", "other exception", "half-loaded")
    print(f"{'spoiled file':24}" + "".join(f"{column:>17}" for column in columns))
    for kind, count in found["targets"].items():
        print(f"{kind:24}" + "".join(f"{count.get(column, 0):17,}" for column in columns))
    print(f"{found['files']:,} files in {time.perf_counter() - begin:.0f} s: {found['loaded']:,} loaded whole, "
          f"{found['refused']:,} refused with one OctavoError and an untouched model, {len(found['faults'])} failed; "
          f"memory grew by at most {found['max_rss_growth_mb']} MB, slowest case {found['slowest_s']} s")  # fmt: skip
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    result = {"command": f"python -m bench.fuzz_files --files {options.files}", "machine": machine, **found}
    out = Path(__file__).with_name("results") / "fuzz_files.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

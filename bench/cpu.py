"""Octavo beside llama.cpp, OpenVINO GenAI and `transformers` on this CPU: `sh bench/rivals.sh; python -m bench.cpu`.

All contenders of one precision run the same random weights and take turns round by round, each in a process of its own
with as many threads as there are cores. Each chooses its own fastest setting in a first round that does not count, and
the result says which. Memory bandwidth and matrix rate are measured between the rounds. Single figures can be measured
again in minutes, such as `python -m bench.cpu --bits 4 --only decode_1 --rounds 3`: a run replaces in
bench/results/cpu.json what it measured and leaves the rest. Figures of another kind of machine go into a file of their
own, such as `--result cpu_shared`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench import bars
from bench.machine import Limits, busy_share, cpu_ticks, facts, limits
from bench.rivals.worker import Order
from bench.shapes import SHAPES, prepared

RESULTS = Path(__file__).with_name("results")
FIRST_PROMPT = Order(do="prefill", context=64)
THIEF = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


class Contender(NamedTuple):
    """weights, head: bits of memory per weight of the layers and of the output head, scales included."""

    name: str
    module: str  # of bench/rivals
    file: str  # of shapes.prepared
    kind: str
    weights: float
    head: float


class Figure(NamedTuple):
    """unit; order: None for what a fresh process is measured by; core: "" all, "one" pinned to one, "stolen"."""

    unit: str
    order: Order | None
    core: str = ""


CONTENDERS: dict[int, tuple[Contender, ...]] = {  # bits -> who meets; the first is ours
    4: (
        Contender("octavo w4 pure", "ours", "official", "w4-pure", 4.125, 4.125),
        Contender("octavo w4", "ours", "official", "w4", 4.125, 8.0),
        Contender("llama.cpp q4_0 pure", "llama", "q4_0-pure.gguf", "", 4.5, 4.5),
        Contender("llama.cpp q4_0", "llama", "q4_0.gguf", "", 4.5, 6.5625),
        Contender("openvino int4", "openvino", "int4", "", 4.16, 8.02),
        Contender("openvino int8", "openvino", "int8", "", 8.02, 8.02),
    ),
    8: (
        Contender("octavo w8", "ours", "official", "w8", 8.0, 8.0),
        Contender("llama.cpp q8_0", "llama", "q8_0.gguf", "", 8.5, 8.5),
        Contender("openvino int8", "openvino", "int8", "", 8.02, 8.02),
    ),
    16: (
        Contender("octavo bf16", "ours", "official", "bf16", 16, 16),
        Contender("llama.cpp bf16", "llama", "bf16.gguf", "", 16, 16),
        Contender("transformers eager", "hf", "official", "eager", 16, 16),
        Contender("transformers compiled", "hf", "official", "compiled", 16, 16),
        Contender("transformers frozen", "hf", "official", "frozen", 16, 16),
    ),
}
LARGE = (  # of shapes that exist in Q4_0 only
    Contender("octavo q4_0", "ours", "q4_0-pure.gguf", "stored", 4.5, 4.5),
    Contender("llama.cpp q4_0 pure", "llama", "q4_0-pure.gguf", "", 4.5, 4.5),
)
FIGURES: dict[str, Figure] = {
    "load": Figure("s", None), "first_token": Figure("s", None), "peak_rss": Figure("MB", None),
    "decode_1": Figure("tok/s", Order(do="decode")),
    "decode_1_at_2048": Figure("tok/s", Order(do="decode", context=2048)),
    "decode_1_at_2048_int8": Figure("tok/s", Order(do="decode", context=2048, cache="int8")),
    "decode_8": Figure("tok/s", Order(do="decode", batch=8)),
    "decode_16": Figure("tok/s", Order(do="decode", batch=16)),
    "prefill_512": Figure("tok/s", Order(do="prefill", context=512)),
    "prefill_4096": Figure("tok/s", Order(do="prefill", context=4096)),
    "requests_64": Figure("s", Order(do="requests", batch=64)),
    "one_core": Figure("tok/s", Order(do="decode", mean=True), "one"),
    "stolen_core": Figure("tok/s", Order(do="decode", mean=True), "stolen"),
}  # fmt: skip


class Worker:
    """A process with one contender and one model. loaded: what it said when it was ready."""

    def __init__(self, contender: Contender, path: Path, *, rivals: Path, cores: list[int]) -> None:
        own = contender.module in ("ours", "hf")
        python = sys.executable if own else str(rivals / "bin" / "python")
        place = [str(path), contender.kind, ",".join(map(str, cores))]
        self.name, self.started_s = contender.name, time.perf_counter()
        self.process = subprocess.Popen(
            [python, "-m", f"bench.rivals.{contender.module}", *place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.loaded = self.read()

    def read(self) -> dict[str, Any]:
        """Its next line. A worker that died is a figure that is missing, not the end of the run."""
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("{")), "")  # libraries may print too
        return json.loads(line) if line else {"missing": f"its process ended with code {self.process.wait()}"}

    def ask(self, order: Order) -> dict[str, Any]:
        """One figure."""
        assert self.process.stdin is not None
        if self.process.poll() is not None:
            return {"missing": f"its process ended with code {self.process.returncode}"}
        self.process.stdin.write(order.line())
        self.process.stdin.flush()
        return self.read()

    def stop(self) -> None:
        """End it, in whatever it is."""
        self.process.kill()
        self.process.wait()


class Run:
    """Measures figures of one model in one precision."""

    def __init__(self, paths: dict[Contender, Path], *, rivals: Path, rounds: int) -> None:
        self.paths, self.rivals, self.rounds = paths, rivals, rounds
        self.cores, self.salt = sorted(os.sched_getaffinity(0)), 0

    def worker(self, contender: Contender, *, core: str = "") -> Worker:
        """Started and loaded."""
        cores = self.cores[:1] if core == "one" else self.cores
        return Worker(contender, self.paths[contender], rivals=self.rivals, cores=cores)

    def starts(self) -> dict[str, list[tuple[Contender, dict[str, Any]]]]:
        """What fresh processes are measured by: figure -> answers."""
        found: dict[str, list[tuple[Contender, dict[str, Any]]]] = {"load": [], "first_token": [], "peak_rss": []}
        for _ in range(self.rounds):
            for contender in self.paths:
                worker = self.worker(contender)
                first = worker.ask(FIRST_PROMPT) if "load" in worker.loaded else worker.loaded
                first_s = time.perf_counter() - worker.started_s
                missing = {key: first[key] for key in first if key == "missing"}
                found["load"].append((contender, missing or {"value": worker.loaded["load"]}))
                found["first_token"].append((contender, missing or {"value": first_s}))
                found["peak_rss"].append((contender, missing or worker.ask(Order(do="memory"))))
                worker.stop()
        return found

    def figures(self, wanted: list[str]) -> dict[str, dict[str, Any]]:
        """What running processes are measured by: figure -> answers and limits. Each round measures all figures: a
        machine is faster at one time than at another, and some figures are divided by others."""
        places = {FIGURES[name].core for name in wanted}
        workers = {(c, place): self.worker(c, core=place) for c in self.paths for place in places}
        threads = len(self.cores) if "" in places else 1  # that limits are measured with: a stolen core has none
        answers: dict[str, list[tuple[Contender, dict[str, Any]]]] = {name: [] for name in wanted}
        before, bounds = cpu_ticks(), [limits(threads)]
        for turn in range(self.rounds + 1):
            for name in wanted:
                for contender in self.paths:
                    if turn and any(c == contender and "missing" in a for c, a in answers[name]):
                        continue
                    reply = self.reply(workers[contender, FIGURES[name].core], name, warm=turn == 0)
                    if turn or "missing" in reply:  # the first turn warms up and lets each choose its setting
                        answers[name].append((contender, reply))
                bounds.append(limits(threads))
        for worker in workers.values():
            worker.stop()
        best, typical = (Limits(*map(pick, zip(*bounds, strict=True))) for pick in (max, statistics.median))
        busy = busy_share(before, cpu_ticks())
        for name in wanted:
            show(name, answers[name])
        found = {"limits": best, "typical limits": typical, "machine busy": busy}
        return {name: {"answers": answers[name], **found} for name in wanted}

    def reply(self, worker: Worker, name: str, *, warm: bool) -> dict[str, Any]:
        """One answer, or why there is none."""
        figure = FIGURES[name]
        assert figure.order is not None
        if "load" not in worker.loaded:
            return worker.loaded
        return self.ask(worker, replace(figure.order, warm=warm), core=figure.core)

    def ask(self, worker: Worker, order: Order, *, core: str) -> dict[str, Any]:
        """One figure with prompts that nobody saw before, beside a thief where one is wanted."""
        self.salt += 1
        order = replace(order, salt=self.salt)
        if core != "stolen":
            return worker.ask(order)
        thief = subprocess.Popen([sys.executable, "-c", THIEF % self.cores[-1]])
        try:
            return worker.ask(order)
        finally:
            thief.kill()
            thief.wait()


def show(name: str, answers: list[tuple[Contender, dict[str, Any]]]) -> None:
    """One line on stderr as soon as a figure is there."""
    found = {c.name: [a["value"] for d, a in answers if d == c and "value" in a] for c, _ in answers}
    shown = "; ".join(f"{key} {statistics.median(v):.4g}" if v else f"{key} -" for key, v in found.items())
    print(f"{name}: {shown}", file=sys.stderr, flush=True)


def collect(run: Run, only: list[str]) -> dict[str, dict[str, Any]]:
    """All wanted figures: name -> what `bars.row` makes of them."""
    raw: dict[str, dict[str, Any]] = {}
    if any(FIGURES[name].order is None for name in only):
        raw |= {name: {"answers": answers} for name, answers in run.starts().items() if name in only}
        for name in raw:
            show(name, raw[name]["answers"])
    for places in (("",), ("one", "stolen")):
        wanted = [name for name in only if FIGURES[name].order is not None and FIGURES[name].core in places]
        if wanted:
            raw |= run.figures(wanted)
    return raw


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Octavo beside its rivals on this CPU.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="0.6b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--bits", default="4,8,16", help="precisions to compare in")
    parser.add_argument(
        "--kinds", default="", help="only contenders whose name holds one of these, such as octavo,llama"
    )
    parser.add_argument("--only", default="", help=f"names of figures, or how names begin, of {', '.join(FIGURES)}")
    parser.add_argument("--rivals", type=Path, default=Path(".rivals"), help="what bench/rivals.sh set up")
    parser.add_argument("--result", default="cpu", help="name of the file in bench/results that the figures go into")
    parser.add_argument("--no-write", action="store_true", help="leave that file as it is")
    return parser.parse_args()


def chosen_figures(only: str) -> list[str]:
    """Figures by the beginnings of their names; a whole name means that one alone."""
    starts = [start for start in only.split(",") if start]
    found = [
        f for f in FIGURES if not starts or f in starts or any(f.startswith(s) for s in starts if s not in FIGURES)
    ]
    if not found:
        raise SystemExit(f"--only {only} names no figure: there are {', '.join(FIGURES)}")
    return found


def main() -> int:
    """Measure, print tables and bars, write the result. 1 where a bar is missed."""
    arguments, command = parsed(), "python -m bench.cpu"
    only, kinds = chosen_figures(arguments.only), [kind for kind in arguments.kinds.split(",") if kind]
    path = RESULTS / f"{arguments.result}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    into = "" if arguments.result == "cpu" else f" --result {arguments.result}"
    result |= {"command": command + into, "threads": len(os.sched_getaffinity(0))}
    figures = result.setdefault("figures", {})
    for model in arguments.models.split(","):
        for bits in map(int, arguments.bits.split(",")):
            whole = model in ("0.6b", "tiny")
            group = CONTENDERS[bits] if whole else LARGE if bits == 4 else ()
            group = tuple(c for c in group if not kinds or any(kind in c.name for kind in kinds))
            if not group:
                continue
            rivals = arguments.rivals.absolute()
            paths = {c: prepared(rivals / "models", name=model, file=c.file, rivals=rivals) for c in group}
            raw = collect(Run(paths, rivals=rivals, rounds=arguments.rounds), only)
            told = " ".join([command, *sys.argv[1:]])
            rows = {name: bars.row(name, FIGURES[name], found, model=model) for name, found in raw.items()}
            for row in rows.values():
                row |= {"command": told, "rounds": arguments.rounds, "machine": facts()}
            key = f"{model} at {bits} bits"
            figures.setdefault(key, {}).update(rows)
            result["bars"] = bars.judged(figures)
            bars.print_table(key, rows)
            if not arguments.no_write:
                path.write_text(json.dumps(result, indent=1) + "\n")
    told = bars.judged(figures)
    bars.print_bars(told)
    return 0 if all(bar["met"] is not False for bar in told) else 1


if __name__ == "__main__":
    sys.exit(main())

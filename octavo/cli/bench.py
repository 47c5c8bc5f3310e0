"""`octavo bench`: what this machine reaches with a model, beside what its memory and its processor allow."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from msgspec import Struct

from octavo.cli.clean import one_line
from octavo.cli.settings import WEIGHTS, Weights
from octavo.core.errors import RequestError
from octavo.core.sources import Hub

if TYPE_CHECKING:
    from octavo.chat.local import LocalChat
    from octavo.engine.types import Backend

BLOCKS = " ▏▎▍▌▋▊▉█"
WIDTH = 24  # characters of a bar


class Task(NamedTuple):
    """One figure. do: "prompt" (tokens = its length) or "reply" (tokens = context, with `batch` replies at once)."""

    do: str
    tokens: int
    batch: int = 1

    @property
    def title(self) -> str:
        """As the table has it."""
        if self.do == "prompt":
            return f"prompt of {self.tokens:,} tokens"
        return f"{self.batch} {'reply' if self.batch == 1 else 'replies'} at {self.tokens:,} tokens"


FULL = (Task("prompt", 128), Task("prompt", 512), Task("prompt", 2048), Task("reply", 128), Task("reply", 2048),
        Task("reply", 128, 4), Task("reply", 128, 8), Task("reply", 128, 16))  # fmt: skip
QUICK = (Task("prompt", 64), Task("reply", 64), Task("reply", 64, 4))


class Row(Struct, frozen=True, kw_only=True):
    """One line of the table. rate, limit: tokens per second, found and at most; limit None: nobody measured one."""

    title: str
    rate: float
    limit: float | None = None


def bench(
    model: Annotated[str | None, typer.Argument(help="Folder, GGUF file or org/name; none: as octavo chat.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Three figures in some seconds, once each.")] = False,
    rivals: Annotated[bool, typer.Option("--rivals/--no-rivals", help="Measure installed rivals too.")] = True,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    hub: Annotated[Hub, typer.Option(help="Where org/name comes from.")] = "huggingface",
    weights: Annotated[Weights | None, typer.Option(help=WEIGHTS)] = None,
) -> None:
    """Measure a model here, beside what memory and processor allow, and beside llama.cpp and transformers."""
    from octavo.chat import load
    from octavo.chat.local import LocalChat
    from octavo.cli import rivals as others

    chat = load(model, offline=offline, hub=hub, kind=weights)
    if not isinstance(chat, LocalChat):
        raise RequestError(f"{model} is an endpoint elsewhere: give a model that runs on this machine.")
    tasks, rounds = (QUICK, 1) if quick else (FULL, 3)
    tasks = tuple(task for task in tasks if task.tokens + 600 <= chat.context_tokens)
    path = model_path(model, offline=offline, hub=hub)
    found = others.installed(path) if rivals else {}
    with progress(len(tasks) * rounds + 1 + len(found)) as advance:
        limits = limits_of(chat, tasks)
        advance("memory and matrix rate")
        rows = measured(chat.engine.backend, tasks, rounds=rounds, limits=limits, advance=advance)
        prompt, steps = random_ids(chat.engine.backend, 64 if quick else 512, seed=1), 4 if quick else 24
        for name, measure in found.items():
            rates = measure(prompt, steps)
            rows.append(Row(title=f"{name}: prompt of {len(prompt)} tokens", rate=rates.prefill))
            rows.append(Row(title=f"{name}: 1 reply at {len(prompt)} tokens", rate=rates.decode))
            advance(name)
    print(f"\n{one_line(chat.name)}, tokens per second; a full bar is what this machine allows\n")
    print("\n".join(plot(rows)))
    print("\n" + "\n".join(others.missing() if rivals else ["Rivals were left out."]))
    raise typer.Exit()


def model_path(model: str | None, *, offline: bool, hub: Hub) -> Path:
    """Where the files are that `load` opened."""
    from octavo.weights import default_model, find_model

    return default_model() if model is None else find_model(model, offline=offline, hub=hub)


def limits_of(chat: "LocalChat", tasks: Sequence[Task]) -> dict[Task, float]:
    """Tokens per second that memory (replies) or matrix rate (prompts) allow; {} for a model that torch runs."""
    from octavo.engine.cpu_backend import CpuBackend
    from octavo.models.cost import cost
    from octavo.nn.packed import MULTIPLIES

    backend = chat.engine.backend
    if not isinstance(backend, CpuBackend):
        return {}
    kinds, library, threads = backend.model.kinds, backend.library, backend.threads
    read, units = cost(backend.model.config), MULTIPLIES[kinds["layers.0.qkv"]]
    size, number = backend.model.read_bytes / (read.linears + read.head), backend.number_bytes
    bandwidth, rate = library.bandwidth(threads), library.matrix_rate(units, threads)

    def limit(task: Task) -> float:
        if task.do == "prompt":
            return rate * task.tokens / (read.linears * task.tokens + read.head)
        bytes = read.step_bytes(weight_bytes=size, number_bytes=number, batch=task.batch, context=task.tokens)
        return min(task.batch * bandwidth / bytes, rate / (read.linears + read.head))

    return {task: limit(task) for task in tasks}


def measured(backend: "Backend", tasks: Sequence[Task], *, rounds: int, limits: dict[Task, float],
             advance: Callable[[str], None]) -> list[Row]:  # fmt: skip
    """A row for each task: the median of the rounds, whose turns are taken in order."""
    from statistics import median

    rates: dict[Task, list[float]] = {task: [] for task in tasks}
    for turn in range(rounds):
        for task in tasks:
            rates[task].append(rate_of(backend, task, seed=turn))
            advance(task.title)
    return [Row(title=task.title, rate=median(found), limit=limits.get(task)) for task, found in rates.items()]


def rate_of(backend: "Backend", task: Task, *, seed: int, steps: int = 16) -> float:
    """Tokens per second of one task."""
    from statistics import median

    from octavo.engine.speed import decode_seconds, prefill_seconds

    if task.do == "prompt":
        return task.tokens / prefill_seconds(backend, random_ids(backend, task.tokens, seed=seed))
    size = max(1, task.tokens - steps // 2)
    prompts = [random_ids(backend, size, seed=seed * 1000 + i) for i in range(task.batch)]
    return task.batch / median(decode_seconds(backend, prompts, steps=steps))


def random_ids(backend: "Backend", count: int, *, seed: int) -> list[int]:
    """A prompt that says nothing: a model computes it as it would any text, and no cache of prompts knows it."""
    from random import Random

    return Random(seed).choices(range(backend.vocab_size), k=count)


def plot(rows: Sequence[Row]) -> list[str]:
    """A line for each row: title, rate, and a bar of its share of the limit."""
    wide = max((len(row.title) for row in rows), default=0)
    return [f"{row.title:<{wide}}  {row.rate:>9,.1f}  {bar(row)}".rstrip() for row in rows]


def bar(row: Row) -> str:
    """The share in eighths of a character, and as a number beside what the limit is; "" without a limit."""
    if row.limit is None:
        return ""
    share = row.rate / row.limit
    eighths = round(min(share, 1) * WIDTH * 8)
    full = "█" * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")
    return f"{full:·<{WIDTH}}  {share:.0%} of {row.limit:,.0f}"


@contextmanager
def progress(total: int) -> Generator[Callable[[str], None]]:
    """A progress bar on stderr while it runs; where that is no terminal, nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("measuring", total=total)
        yield lambda text: shown.update(task, advance=1, description=text)

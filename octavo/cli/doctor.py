"""`octavo doctor`: what this machine has for Octavo, and what to do where something is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from msgspec import Struct

from octavo.cli.clean import one_line
from octavo.core.errors import KernelError, OctavoError

GIGABYTE = 10**9
LEAST_BYTES = 4 * GIGABYTE  # of memory and of disk: Qwen3-0.6B with its context, with room to spare
FEATURES = {  # name in /proc/cpuinfo -> what it is called
    "amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2",
    "asimd": "NEON", "bf16": "BF16", "sve": "SVE",
}  # fmt: skip


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the report. todo: what to do about it; "" where all is well."""

    name: str
    found: str
    todo: str = ""

    @property
    def line(self) -> str:
        """ok or warn, what was found, what to do."""
        mark = "warn" if self.todo else "ok"
        return f"{mark:<5}{self.name:<12}{one_line(self.found)}" + (f": {one_line(self.todo)}" if self.todo else "")


def doctor() -> None:
    """Say what this machine has for Octavo, one line each, and what to do where something is missing."""
    for find in CHECKS:
        for finding in find():
            print(finding.line, flush=True)
    raise typer.Exit()


def python() -> Iterator[Finding]:
    """Interpreter and torch."""
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Finding(name="Python", found=version, todo="Octavo needs 3.11 or newer." if old else "")
    import torch

    yield Finding(name="torch", found=str(torch.__version__))


def processor() -> Iterator[Finding]:
    """Instructions, threads, and the kernels for them."""
    from octavo.nn.kernels import cpu_flags, open_library, usable_cores

    names = cpu_features(cpu_flags())
    slow = platform.machine() in ("x86_64", "AMD64") and "AVX2" not in names
    yield Finding(
        name="CPU", found=f"{platform.machine()}, {', '.join(names) or 'no vector instructions that we know of'}",
        todo="without AVX2 models run slowly here: take a small one." if slow else "",
    )  # fmt: skip
    yield Finding(name="threads", found=f"{usable_cores()}, one for each core that this process may use")
    try:
        yield Finding(name="kernels", found=open_library().tier)
    except KernelError as error:
        yield Finding(name="kernels", found="none", todo=str(error))


def graphics() -> Iterator[Finding]:
    """GPUs that torch can use. None is no fault: everything runs on the CPU."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        nvidia = Path("/proc/driver/nvidia").exists()
        hint = "this torch is built for CPUs only: install one with CUDA to use the GPU."
        found = "none that torch can use" if nvidia else "none; the CPU computes"
        yield Finding(name="GPU", found=found, todo=hint if nvidia and not built else "")
        return
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield Finding(name="GPU", found=f"{found.name}, {found.total_memory / GIGABYTE:.0f} GB")


def room() -> Iterator[Finding]:
    """Memory and disk."""
    from octavo.weights.memory import available_bytes, gigabytes

    free = available_bytes()
    todo = "close other programs, or stay with the small model that comes with the install."
    yield Finding(name="memory", found=f"{gigabytes(free)} free", todo=todo if free < LEAST_BYTES else "")
    folder = existing(hub_cache())
    free = shutil.disk_usage(folder).free
    todo = "make room, or let HF_HUB_CACHE name a folder on a larger disk."
    yield Finding(name="disk", found=f"{gigabytes(free)} free in {folder}", todo=todo if free < LEAST_BYTES else "")


def models() -> Iterator[Finding]:
    """The hub cache and what is in it."""
    from octavo.weights.hub import default_model, list_models

    found, cache = list_models(), hub_cache()
    locked = "it cannot be written: mend its permissions, or let HF_HUB_CACHE name another."
    yield Finding(name="hub cache", found=str(cache), todo="" if os.access(existing(cache), os.W_OK) else locked)
    none = "fetch one: octavo models pull Qwen/Qwen3-0.6B"
    yield Finding(name="models", found=", ".join(m.name for m in found) or "none", todo="" if found else none)
    try:
        yield Finding(name="octavo chat", found=f"talks to {default_model()}")
    except OctavoError as error:
        yield Finding(name="octavo chat", found="has no model to talk to", todo=str(error))


def terminal() -> Iterator[Finding]:
    """What the terminal can show."""
    if not sys.stdout.isatty():
        yield Finding(name="terminal", found="none: stdout is a pipe or a file, so chat and run print plain text")
        return
    kind, encoding = os.environ.get("TERM", ""), (sys.stdout.encoding or "").lower()
    size = shutil.get_terminal_size()
    todo = ""
    if kind in ("", "dumb"):
        todo = "answers come as plain text: set TERM to what your terminal is, such as xterm-256color."
    elif encoding not in ("utf-8", "utf8"):
        todo = "it cannot show all characters: set LC_ALL=C.UTF-8."
    colours = ", NO_COLOR is set" if os.environ.get("NO_COLOR") else ""
    shown = f"{kind or 'TERM is not set'}, {size.columns} x {size.lines}, {encoding}{colours}"
    yield Finding(name="terminal", found=shown, todo=todo)


def runs_on() -> str:
    """What computes here, in one line: the GPU, or the CPU with its threads and instruction set."""
    from octavo.chat.loading import has_nvidia
    from octavo.nn.kernels import open_library, usable_cores

    if has_nvidia():
        import torch

        if torch.cuda.is_available():
            return f"It runs on the GPU: {torch.cuda.get_device_name(0)}."
    try:
        kernels = f"{open_library().tier} kernels"
    except KernelError:
        kernels = "PyTorch"  # `octavo doctor` says why
    return f"It runs on the CPU: {usable_cores()} threads, {kernels}."


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, processor, graphics, room, models, terminal)


def cpu_features(flags: frozenset[str]) -> list[str]:
    """Those among `flags` that decide how fast a model runs, best first."""
    return [called for flag, called in FEATURES.items() if flag in flags]


def hub_cache() -> Path:
    """The folder of downloaded models, which other programs share."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())

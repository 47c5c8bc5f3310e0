"""What this machine is and what it can do at most: read bandwidth of its memory, rate of its matrix units."""

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from octavo.nn.kernels import open_library

READ_BYTES = 1 << 30
TIERS = {  # name in /proc/cpuinfo -> what it is called, best first
    "amx_int8": "AMX", "avx512_bf16": "AVX512-BF16", "avx512_vnni": "AVX512-VNNI", "avx512f": "AVX512", "avx2": "AVX2",
}  # fmt: skip


class Limits(NamedTuple):
    """bandwidth: bytes read per second; bf16, int8: multiplications with their additions, two operations each, per
    second. All with as many threads as asked for, best of several tries."""

    bandwidth: float
    bf16: float
    int8: float


def limits(threads: int) -> Limits:
    """Measure, with the kernels' own probes. Takes about three seconds."""
    library = open_library()
    return Limits(
        bandwidth=library.bandwidth(threads, size_bytes=READ_BYTES), bf16=2 * library.matrix_rate("bf16", threads),
        int8=2 * library.matrix_rate("w8", threads),
    )  # fmt: skip


def facts() -> dict[str, Any]:
    """CPU, instructions, cores, memory, and how busy others kept it when this was asked."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(named.get("flags", "").split())
    return {
        "cpu": named.get("model name", platform.machine()), "tier": [TIERS[flag] for flag in TIERS if flag in flags],
        "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "load_average": os.getloadavg()[0],
    }  # fmt: skip


def command_of(module: str) -> str:
    """The command that runs, for its result: the module and what it was given, but of paths the last part alone."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *words])


def busy_share(seconds_before: tuple[int, int], seconds_after: tuple[int, int]) -> float:
    """Share of the machine's time that was used between two answers of `cpu_ticks`, 0..1."""
    busy, total = (after - before for before, after in zip(seconds_before, seconds_after, strict=True))
    return busy / total if total else 0.0


def cpu_ticks() -> tuple[int, int]:
    """Ticks that all cores were busy, and ticks in all, since the machine started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)

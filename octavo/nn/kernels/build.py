"""The kernels' library: compiled once for each instruction set, then kept.

A library is named by a hash of its sources and flags, so a stale one is never loaded. Wheels may carry libraries made
before in the folder `prebuilt`; else the machine's C++ compiler makes one in the user's cache.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

from octavo.core.errors import KernelError

T = TypeVar("T")
HERE = Path(__file__).parent
SOURCES = {  # what is compiled -> what it includes
    "kernels.cpp": ("vector.h", "rotate.h", "crew.h", "pool.h", "tile_unit.h", "tiles.h", "linear.h", "attention.h",
                    "attention_tiles.h", "buffers.h", "decoder.h"),
    "training.cpp": ("vector.h", "rows.h", "tile_unit.h", "blocks.h", "documents.h", "outer.h", "matrix.h"),
}  # fmt: skip
# No contraction: whether a product and a sum are rounded once or twice must not depend on what surrounds them.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared",
         "-pthread")  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 300


class Tier(NamedTuple):
    """An instruction set: what the CPU must name in /proc/cpuinfo, and what the compiler is told."""

    needs: tuple[str, ...]
    flags: tuple[str, ...]


_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c")
_BF16, _BF16_FLAGS = (*_AVX512, "avx512_bf16"), (*_AVX512_FLAGS, "-mavx512bf16")
_TILES = ("amx_tile", "amx_int8", "amx_bf16")
TIERS: dict[str, Tier] = {  # best first; the last runs everywhere
    "amx": Tier((*_BF16, *_TILES), (*_BF16_FLAGS, "-mamx-tile", "-mamx-int8", "-mamx-bf16")),
    "avx512-bf16": Tier(_BF16, _BF16_FLAGS),
    "avx512": Tier(_AVX512, _AVX512_FLAGS),
    "avx2": Tier(("avx2", "fma", "f16c"), ("-mavx2", "-mfma", "-mf16c")),
    "plain": Tier((), ()),
}


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets that the system names; empty where it names none (macOS, Windows)."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()[1:])


def usable_cores() -> int:
    """Cores that this process may run on, or OCTAVO_THREADS where that is fewer."""
    named = os.environ.get("OCTAVO_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(named))) if named.isdecimal() else cores


def best_tier(flags: frozenset[str], *, tiles: bool = True) -> str:
    """The best instruction set of a CPU with these flags. tiles: False leaves AMX out."""
    return next(name for name, tier in TIERS.items() if flags.issuperset(tier.needs) and (tiles or name != "amx"))


def best_that_opens(opened: Callable[[str], T]) -> T:
    """What `opened` makes of the best instruction set that this CPU and system can run. Raises KernelError."""
    flags = cpu_flags()
    best, without_tiles = best_tier(flags), best_tier(flags, tiles=False)
    try:
        return opened(best)
    except KernelError:  # a system may keep tiles from a process, and an older compiler does not know them
        if best == without_tiles:
            raise
        return opened(without_tiles)


def library_path(tier: str, *, source: str = "kernels.cpp", extra_flags: tuple[str, ...] = ()) -> Path:
    """The library of an instruction set, compiled if need be.

    extra_flags   for a library of its own, such as one with sanitizers
    Raises KernelError where it is not there and cannot be made.
    """
    flags = (*FLAGS, *TIERS[tier].flags, *extra_flags)
    name = f"octavo-{platform.machine()}-{tier}-{_digest(flags, source)}.so"
    for place in (HERE / "prebuilt" / name, cache_folder() / name):
        if place.is_file():
            return place
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise KernelError(
            f"no C++ compiler was found ({', '.join(COMPILERS)}), so the fast CPU kernels cannot be made: install one "
            f"(Debian, Ubuntu: apt install g++). Until then PyTorch computes, several times slower."
        )
    return _compile([compiler, *flags, str(HERE / source)], cache_folder() / name)


def cache_folder() -> Path:
    """Where compiled libraries and packed weights are kept: OCTAVO_CACHE, else octavo in the user's cache."""
    named = os.environ.get("OCTAVO_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octavo"


def _digest(flags: tuple[str, ...], source: str) -> str:
    content = hashlib.sha256(" ".join(flags).encode())
    for file in (*SOURCES[source], source):
        content.update((HERE / file).read_bytes())
    return content.hexdigest()[:20]


def _compile(command: list[str], target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, timeout=TIMEOUT_S)
            if done.returncode:
                raise KernelError(f"{command[0]} could not compile the CPU kernels: {done.stderr.strip()[-600:]}")
            made.replace(target)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise KernelError(f"the CPU kernels could not be made in {target.parent}: {cause}") from cause
    return target


def prebuild() -> list[Path]:
    """Libraries of all x86 instruction sets into `prebuilt`, for a wheel: `python -m octavo.nn.kernels.build`."""
    (HERE / "prebuilt").mkdir(exist_ok=True)
    made: list[Path] = []
    for tier, source in product(TIERS, SOURCES):
        path = library_path(tier, source=source)
        made.append(Path(shutil.copy(path, HERE / "prebuilt")) if path.parent != HERE / "prebuilt" else path)
    return made


if __name__ == "__main__":
    print(*prebuild(), sep="\n")

"""What a model needs of this machine, and what the machine has: disk, weights, cache, free memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from octavo.core.errors import ConfigError, MemoryNeeded

if TYPE_CHECKING:
    from octavo.models.packed import Recipe
    from octavo.weights.checkpoint import Checkpoint

CONTEXT_TOKENS = 8_192  # that the estimate makes room for, where nobody says
CACHE_NUMBER_BYTES = 2  # keys and values are kept in 16 bits
KERNELS_BYTES = 150_000_000  # the interpreter, our kernels and the buffers of a forward pass
TORCH_BYTES = 600_000_000  # the same with torch
LIMIT = "OCTAVO_MEMORY_BYTES"
PACKED = "OCTAVO_PACKED"  # "memory": packed weights are neither looked for in the cache nor kept there
HEAD = "lm_head.weight"
NUMBER_BYTES: dict[Recipe, float] = {"bf16": 2.0, "w8": 1.01, "w4": 0.65}  # per weight; w4: the head has 8 bits
STORED_BYTES = {"w4": 0.53, "Q4_0": 0.5625, "Q4_1": 0.625, "Q8_0": 1.0625}  # per weight; what is not here becomes w8
SMALL_BYTES = 1 << 30  # in bf16: a GGUF file of so little is unpacked to it
UNLIMITED_BYTES = 1 << 60  # a control group's limit above this is none

# Qwen3 in 16 bits, largest first: what it takes with its cache of 8,192 tokens, as `needs` has it
SMALLER = {
    "Qwen/Qwen3-32B": 67_900_000_000, "Qwen/Qwen3-14B": 31_100_000_000, "Qwen/Qwen3-8B": 17_800_000_000,
    "Qwen/Qwen3-4B": 10_200_000_000, "Qwen/Qwen3-1.7B": 5_200_000_000, "Qwen/Qwen3-0.6B": 2_600_000_000,
}  # fmt: skip
SHIPPED_BYTES = 200_000_000  # so much does the small model that comes with the install need at most


class Needs(Struct, frozen=True, kw_only=True):
    """Bytes.   disk: of the files;   weights, cache, work: in memory;   available: memory that can be had now."""

    disk_bytes: int
    weights_bytes: int
    cache_bytes: int
    work_bytes: int
    available_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Memory in all."""
        return self.weights_bytes + self.cache_bytes + self.work_bytes

    @property
    def line(self) -> str:
        """One line for the user."""
        return (f"{gigabytes(self.disk_bytes)} on disk; {gigabytes(self.needed_bytes)} of memory "
                f"(weights {gigabytes(self.weights_bytes)}, context {gigabytes(self.cache_bytes)}), "
                f"{gigabytes(self.available_bytes)} free")  # fmt: skip


def gigabytes(size: int) -> str:
    """A size as people read it, in decimal units: "1.5 GB", "98 MB"."""
    if size < 999_500_000:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:,.1f} GB"


def needs(checkpoint: Checkpoint, *, dtype_bytes: float = 2, context_tokens: int | None = None,
          work_bytes: int = KERNELS_BYTES) -> Needs:  # fmt: skip
    """What a checkpoint needs to answer.

    dtype_bytes      per number of the weights, as they will lie in memory
    context_tokens   to make room for; None: 8,192, or the model's own limit where that is smaller
    Raises ConfigError for a config that is not understood.
    """
    from octavo.models import read_config

    config = read_config(checkpoint.config)
    tokens = min(config.context_tokens, CONTEXT_TOKENS) if context_tokens is None else context_tokens
    numbers = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names if name != HEAD)
    numbers += config.vocab_size * config.heads.width  # the head: a tied one is packed beside the embedding
    per_token = 2 * config.layers * config.heads.kv_heads * config.heads.head_width * CACHE_NUMBER_BYTES
    return Needs(
        disk_bytes=checkpoint.size_bytes, weights_bytes=int(numbers * dtype_bytes), cache_bytes=per_token * tokens,
        work_bytes=work_bytes, available_bytes=available_bytes(),
    )  # fmt: skip


def packed_needs(checkpoint: Checkpoint, *, recipe: Recipe) -> Needs:
    """What a checkpoint needs to answer on our kernels, packed so. Raises ConfigError as `needs` does."""
    if recipe != "stored":
        return needs(checkpoint, dtype_bytes=NUMBER_BYTES[recipe])
    from octavo.models import read_config

    tied = read_config(checkpoint.config).tied
    each = {name: _stored_bytes(checkpoint, name, tied=tied) for name in checkpoint.names}
    numbers = {name: math.prod(checkpoint.shape(name)) for name in each}
    weights = sum(numbers[name] * each[name] for name in each)
    return replace(needs(checkpoint), weights_bytes=int(weights))


def _stored_bytes(checkpoint: Checkpoint, name: str, *, tied: bool) -> float:
    """Per number of a tensor packed as it is stored. A tied embedding is the head itself, another is kept in bf16."""
    if tied and name == HEAD:
        return 0
    if not tied and name == "model.embed_tokens.weight":
        return 2
    if len(checkpoint.shape(name)) == 1 or name.endswith(".mlp.gate.weight"):  # norms, biases, routers
        return 4
    return STORED_BYTES.get(checkpoint.dtype_name(name), NUMBER_BYTES["w8"])


def default_kind(checkpoint: Checkpoint) -> Recipe:
    """What loses least: bf16, but for large quantised files, which stay as they are stored, and for Octavo's own.

    Quantised weights are multiplied with activations in 8 bits, which small models feel most and need least.
    """
    from octavo.weights.numbers import NUMBERS

    kinds = {checkpoint.dtype_name(name) for name in checkpoint.names}
    if kinds <= NUMBERS.keys():
        return "bf16"
    own = bool(kinds & {"w8", "w4"})
    numbers = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names)
    return "stored" if own or 2 * numbers > SMALL_BYTES else "bf16"


def check_memory(needed: Needs) -> None:
    """Raise MemoryNeeded where the machine has less than `needed`, with what to take instead."""
    if needed.needed_bytes <= needed.available_bytes:
        return
    fits = next((name for name, size in SMALLER.items() if size <= needed.available_bytes), None)
    if needed.weights_bytes + needed.work_bytes <= needed.available_bytes:
        advice = "Ask for a shorter context, or close other programs"
    elif fits is not None:
        advice = f"Take a smaller model, such as {fits}, or close other programs"
    else:
        smaller = ", or take the small model that comes with the install" if needed.needed_bytes > SHIPPED_BYTES else ""
        advice = f"Close other programs{smaller}"
    raise MemoryNeeded(f"The model needs {gigabytes(needed.needed_bytes)} of memory (weights "
                       f"{gigabytes(needed.weights_bytes)}, context {gigabytes(needed.cache_bytes)}), this machine has "
                       f"{gigabytes(needed.available_bytes)} free. {advice}.")  # fmt: skip


def available_bytes(*, root: Path = Path("/")) -> int:
    """Memory that can be had without swapping: what the system says, less what a control group (container) forbids.

    The environment variable OCTAVO_MEMORY_BYTES sets a limit for this process, whatever there is.
    root   where proc and sys lie
    Raises ConfigError where that variable is no number.
    """
    found = [_system(root), *_groups(root), _wished()]
    return max(0, min(size for size in found if size is not None))


def _wished() -> int | None:
    wished = os.environ.get(LIMIT, "")
    if wished and not wished.isdecimal():
        raise ConfigError(f"{LIMIT} is {wished!r:.80}, a number of bytes was needed, such as 8000000000 for 8 GB.")
    return int(wished) if wished else None


def _system(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = [name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in os.sysconf_names]
    return os.sysconf(names[0]) * os.sysconf("SC_PAGE_SIZE") if names else UNLIMITED_BYTES


def _groups(root: Path) -> list[int | None]:
    """What each control group above this process leaves. A container may see its own group as the root."""
    left: list[int | None] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            base, limit, usage, idle = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, idle = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = base / place.lstrip("/")
        for folder in (group, *group.parents):
            left.append(_left(folder, limit=limit, usage=usage, idle=idle))
            if folder == base:
                break
    return left


def _left(folder: Path, *, limit: str, usage: str, idle: str) -> int | None:
    """What one group leaves: its limit less its usage, but for file pages that it can drop. None: no limit."""
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not most.isdecimal() or not used.isdecimal() or int(most) >= UNLIMITED_BYTES:
        return None
    stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    return int(most) - int(used) + int(stat.get(idle, "0"))


def _text(path: Path) -> str:
    """A small file of the system, "" where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

"""`load`: where a model is, what it needs, how its weights are packed here, and the parts put together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

from octavo.core.chat import Chat
from octavo.core.errors import ConfigError, KernelError
from octavo.core.sources import Hub, Report, silent
from octavo.weights.memory import (
    TORCH_BYTES,
    Needs,
    available_bytes,
    check_memory,
    default_kind,
    needs,
    packed_needs,
)

if TYPE_CHECKING:
    from octavo.engine.cpu_backend import CpuBackend
    from octavo.engine.speculation import Speculation
    from octavo.engine.torch_backend import TorchBackend
    from octavo.engine.types import Backend
    from octavo.models.packed import PackedModel, Recipe
    from octavo.nn.linear import Kind as TorchKind
    from octavo.nn.packed import Kind as MatrixKind
    from octavo.text.chat.base import Format
    from octavo.text.tokenizer import Tokenizer
    from octavo.weights.checkpoint import Checkpoint

AnyKind = Literal["bf16", "w8", "w4", "stored", "fp16", "plain"]
CACHE_MOST_BYTES = 8 << 30  # of keys and values on a CPU; taken only as they are written
CACHE_SHARE = 0.5  # of the memory that is left once the weights are there
CUDA_CACHE_SHARE = 0.8


def load(source: str | Path | None = None, *, offline: bool = False, hub: Hub = "huggingface",
         report: Report = silent, kind: AnyKind | None = None, draft: str | Path | None = None) -> Chat:  # fmt: skip
    """Open a model.

    source   a folder or GGUF file; "org/name" of a hub; the http(s) address of an OpenAI-compatible endpoint, the
             model's name after a # where it serves several; None: the best model that is already on this machine
    offline  never touch the network;   hub   where "org/name" comes from
    report   gets lines such as what is loaded and the disk and memory it needs
    kind     how the weights are packed: "bf16"; "w8" or "w4", which are smaller, faster and less exact; "stored": the
             blocks of a GGUF file, exactly where they are Q8_0, Q4_0 or Q4_1, else as w8, or exactly what `octavo
             quantize` wrote; "plain": fp32 in PyTorch; None: stored for quantised weights that are not small, else bf16
    draft    a small model of the same vocabulary that guesses tokens ahead; None: texts are looked up in themselves
    An endpoint takes neither kind nor draft: both are its own business.
    Raises HubError, MemoryNeeded, CheckpointError, ConfigError, TokenizerError or FormatError; nothing is half-loaded.
    """
    if str(source).startswith(("http://", "https://")):
        from octavo.chat.remote import open_remote

        if kind is not None or draft is not None:
            raise ConfigError(f"{source} is an endpoint, which packs weights and guesses tokens as it likes: leave the "
                              f"kind of weights and the draft model out.")  # fmt: skip
        return open_remote(str(source))
    from octavo.weights.checkpoint import open_checkpoint
    from octavo.weights.hub import default_model, find_model

    path = default_model() if source is None else find_model(source, offline=offline, hub=hub, report=report)
    guesser = None if draft is None else open_checkpoint(find_model(draft, offline=offline, hub=hub, report=report))
    return open_local(open_checkpoint(path), report=report, kind=kind, draft=guesser)


def open_local(checkpoint: Checkpoint, *, report: Report = silent, kind: AnyKind | None = None,
               draft: Checkpoint | None = None) -> Chat:  # fmt: skip
    """A checkpoint as a `Chat` in this process, on the GPU where there is one.   draft: see `load`"""
    from octavo.chat.local import LocalChat
    from octavo.engine.engine import Engine

    opening = choose_backend(checkpoint, kind=kind, report=report)
    report(f"{checkpoint.name}: {opening.needed.line}")
    check_memory(opening.needed)
    tokenizer, form = open_text(checkpoint)
    backend = opening.open()
    engine = Engine(backend, speculation=_speculation(backend, checkpoint, draft=draft, kind=kind))
    return LocalChat(name=checkpoint.chat_name, engine=engine, tokenizer=tokenizer, form=form)


def _speculation(backend: Backend, checkpoint: Checkpoint, *, draft: Checkpoint | None,
                 kind: AnyKind | None) -> Speculation:  # fmt: skip
    """Who guesses tokens, and what a guess costs: a row, and its share of a draft model's pass by what both read."""
    from octavo.engine.cpu_backend import CpuBackend
    from octavo.engine.drafts import ModelDrafter
    from octavo.engine.speculation import ROW_COST, Speculation
    from octavo.models import read_config
    from octavo.models.cost import cost

    row = backend.row_cost if isinstance(backend, CpuBackend) else ROW_COST
    if draft is None:
        return Speculation(token_cost=row)
    drafter = ModelDrafter(choose_backend(draft, kind=kind).open(), target=backend)
    small, large = (cost(read_config(c)) for c in (draft.config, checkpoint.config))
    share = (small.linears + small.head) / (large.linears + large.head)
    return Speculation(drafter=lambda: drafter, token_cost=row + share)


def open_text(checkpoint: Checkpoint) -> tuple[Tokenizer, Format]:
    """A checkpoint's tokenizer and the format it speaks. Raises TokenizerError or FormatError."""
    from octavo.text.chat import choose_format
    from octavo.text.tokenizer import Tokenizer

    source = checkpoint.tokenizer_source
    tokenizer = Tokenizer.from_folder(source) if isinstance(source, Path) else Tokenizer.from_gguf_fields(source)
    form = choose_format(
        tokenizer, model_type=str(checkpoint.config.get("model_type")), name=checkpoint.name,
        generation_config=checkpoint.generation_config,
    )  # fmt: skip
    return tokenizer, form


class Opening(NamedTuple):
    """A backend that was chosen: what it needs of the machine, and how it is opened."""

    needed: Needs
    open: Callable[[], Backend]


def choose_backend(checkpoint: Checkpoint, *, kind: AnyKind | None = None, report: Report = silent) -> Opening:
    """What runs a checkpoint here: torch on the GPU where there is one, else our kernels, else torch on the CPU.

    kind   "stored", "bf16", "w8", "w4": our kernels; "fp16", "plain": torch; None: see `load`
    Raises KernelError where w8 or w4 is asked for and cannot be had; ConfigError for a config that is not understood.
    """
    if kind is None and has_nvidia():
        import torch  # only now: it takes longer to import than a small model takes to answer

        if torch.cuda.is_available():
            free = torch.cuda.mem_get_info()[0]
            needed = replace(needs(checkpoint, work_bytes=TORCH_BYTES), available_bytes=free)
            return Opening(needed, partial(_on_cuda, checkpoint))
    if kind not in ("fp16", "plain"):
        recipe: Recipe = kind or default_kind(checkpoint)
        reason = without_kernels(checkpoint)
        if not reason:
            needed = packed_needs(checkpoint, recipe=recipe)
            return Opening(needed, partial(with_kernels, checkpoint, kind=recipe, report=report))
        if kind in ("w8", "w4", "stored"):
            raise KernelError(f"weights in {kind} need the CPU kernels: {reason}")
        report(f"PyTorch computes, which is slower: {reason}")
        kind = None
    from octavo.nn.linear import best_kind

    torch_kind = kind or best_kind()
    needed = needs(checkpoint, dtype_bytes=4 if torch_kind == "plain" else 2, work_bytes=TORCH_BYTES)
    return Opening(needed, partial(with_torch, checkpoint, kind=torch_kind))


def without_kernels(checkpoint: Checkpoint) -> str:
    """Why our kernels cannot run a checkpoint here; "" where they can."""
    from octavo.engine.cpu_backend import unsupported
    from octavo.models import read_config
    from octavo.nn.kernels import open_library

    try:
        open_library()
    except KernelError as error:
        return str(error)
    return unsupported(read_config(checkpoint.config))


def with_kernels(checkpoint: Checkpoint, *, kind: Recipe, cache_bytes: int | None = None,
                 report: Report = silent) -> CpuBackend:  # fmt: skip
    """A checkpoint on our kernels.   cache_bytes   None: what memory allows"""
    from octavo.engine.cpu_backend import CpuBackend

    return CpuBackend(open_packed_here(checkpoint, kind=kind, report=report), cache_bytes=cache_bytes or _cache_bytes())


def open_packed_here(checkpoint: Checkpoint, *, kind: Recipe, head: MatrixKind | None = None,
                     report: Report = silent) -> PackedModel:  # fmt: skip
    """Weights packed for our kernels, from the cache where they were packed before.

    head   kind of the output head, None: what suits `kind`
    """
    from octavo.weights.packed_file import open_packed

    def progress(done: int, whole: int) -> None:
        if done == 1:
            report(f"Packing the weights ({kind}), the first time only ...")
        if done == whole:
            report("Packed.")

    return open_packed(checkpoint, recipe=kind, head=head, progress=progress)


def _cache_bytes() -> int:
    return min(CACHE_MOST_BYTES, int(available_bytes() * CACHE_SHARE))


def has_nvidia(*, root: Path = Path("/")) -> bool:
    """Whether a driver for NVIDIA's GPUs may be here, by its device or its library. root: where dev and proc lie."""
    known = ("dev/nvidiactl", "dev/dxg", "proc/driver/nvidia")
    return sys.platform == "win32" or any((root / path).exists() for path in known)


def with_torch(checkpoint: Checkpoint, *, kind: TorchKind, cache_bytes: int | None = None) -> TorchBackend:
    """Weights packed for torch on a CPU, as they are read, a group at a time.   cache_bytes   None: as memory allows"""
    import torch

    from octavo.engine.torch_backend import TorchBackend
    from octavo.models import skeleton
    from octavo.nn.linear import Packing
    from octavo.weights.load import load_weights

    model = skeleton(checkpoint.config)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    packing = None if kind == "plain" else Packing(model, kind=kind, tied=model.config.tied)
    load_weights(checkpoint, model, dtype=dtype, place=packing)
    return TorchBackend(model, cache_bytes=cache_bytes or _cache_bytes())


def _on_cuda(checkpoint: Checkpoint) -> TorchBackend:
    import torch

    from octavo.engine.torch_backend import TorchBackend
    from octavo.models import skeleton
    from octavo.weights.load import load_weights

    model = skeleton(checkpoint.config)
    load_weights(checkpoint, model, dtype=torch.bfloat16)
    model = model.to("cuda")
    return TorchBackend(model, cache_bytes=int(torch.cuda.mem_get_info()[0] * CUDA_CACHE_SHARE))

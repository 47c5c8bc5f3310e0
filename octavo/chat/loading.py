"""`load`: where a model is, what it needs, how its weights are packed here, and the parts put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from octavo.core.chat import Chat
from octavo.core.sources import Hub, Report, silent

if TYPE_CHECKING:
    from octavo.engine.torch_backend import TorchBackend
    from octavo.nn.linear import Kind
    from octavo.weights import Checkpoint

CACHE_MOST_BYTES = 8 << 30  # of keys and values on a CPU; taken only as they are written
CACHE_SHARE = 0.5  # of the memory that is left once the weights are there
CUDA_CACHE_SHARE = 0.8


def load(source: str | Path | None = None, *, offline: bool = False, hub: Hub = "huggingface",
         report: Report = silent, kind: Kind | None = None) -> Chat:  # fmt: skip
    """Open a model.

    source   a folder or GGUF file; "org/name" of a hub; the http(s) address of an OpenAI-compatible endpoint, the
             model's name after a # where it serves several; None: the best model that is already on this machine
    offline  never touch the network;   hub   where "org/name" comes from
    report   gets lines such as what is loaded and the disk and memory it needs
    kind     how the weights are packed, "plain" is fp32; None: what this machine runs fastest
    Raises HubError, MemoryNeeded, CheckpointError, ConfigError, TokenizerError or FormatError; nothing is half-loaded.
    """
    if str(source).startswith(("http://", "https://")):
        from octavo.chat.remote import open_remote

        return open_remote(str(source))
    from octavo.weights import default_model, find_model, open_checkpoint

    path = default_model() if source is None else find_model(source, offline=offline, hub=hub, report=report)
    return open_local(open_checkpoint(path), report=report, kind=kind)


def open_local(checkpoint: Checkpoint, *, report: Report = silent, kind: Kind | None = None) -> Chat:
    """A checkpoint as a `Chat` in this process, on the GPU where there is one."""
    import torch
    from msgspec.structs import replace

    from octavo.chat.local import LocalChat
    from octavo.engine.engine import Engine
    from octavo.nn.linear import best_kind
    from octavo.text.chat import choose_format
    from octavo.text.tokenizer import Tokenizer
    from octavo.weights import check_memory, needs

    cuda = torch.cuda.is_available()
    kind = kind or ("plain" if cuda else best_kind())
    needed = needs(checkpoint, dtype_bytes=4 if kind == "plain" and not cuda else 2)
    if cuda:
        needed = replace(needed, available_bytes=torch.cuda.mem_get_info()[0])
    report(f"{checkpoint.name}: {needed.line}")
    check_memory(needed)
    source = checkpoint.tokenizer_source
    tokenizer = Tokenizer.from_folder(source) if isinstance(source, Path) else Tokenizer.from_gguf_fields(source)
    form = choose_format(
        tokenizer, model_type=str(checkpoint.config.get("model_type")), name=checkpoint.name,
        generation_config=checkpoint.generation_config,
    )  # fmt: skip
    backend = _on_cuda(checkpoint) if cuda else on_cpu(checkpoint, kind=kind)
    return LocalChat(name=checkpoint.chat_name, engine=Engine(backend), tokenizer=tokenizer, form=form)


def on_cpu(checkpoint: Checkpoint, *, kind: Kind, cache_bytes: int | None = None) -> TorchBackend:
    """Weights packed for this CPU as they are read, one group at a time.   cache_bytes   None: what memory allows."""
    import torch

    from octavo.engine.torch_backend import TorchBackend
    from octavo.models import skeleton
    from octavo.nn.linear import Packing
    from octavo.weights.load import load_weights
    from octavo.weights.memory import available_bytes

    model = skeleton(checkpoint.config)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    packing = None if kind == "plain" else Packing(model, kind=kind, tied=model.config.tied)
    load_weights(checkpoint, model, dtype=dtype, place=packing)
    if cache_bytes is None:
        cache_bytes = min(CACHE_MOST_BYTES, int(available_bytes() * CACHE_SHARE))
    return TorchBackend(model, cache_bytes=cache_bytes)


def _on_cuda(checkpoint: Checkpoint) -> TorchBackend:
    import torch

    from octavo.engine.torch_backend import TorchBackend
    from octavo.models import skeleton
    from octavo.weights.load import load_weights

    model = skeleton(checkpoint.config)
    load_weights(checkpoint, model, dtype=torch.bfloat16)
    model = model.to("cuda")
    return TorchBackend(model, cache_bytes=int(torch.cuda.mem_get_info()[0] * CUDA_CACHE_SHARE))

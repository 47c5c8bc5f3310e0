"""The model that is being trained, as a chat: rollouts sample from the very weights that a step changes."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from octavo.chat.local import LocalChat
from octavo.engine.cpu_backend import CpuBackend, unsupported
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Backend
from octavo.models.decoder import Decoder
from octavo.models.packed import PackedModel, collect, pack
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer
from octavo.train.lora import adapted
from octavo.train.ranks import Ranks
from octavo.train.shards import own_threads
from octavo.weights.save import official_tensors

CACHE_BYTES = 1 << 30  # of keys and values; taken only as they are written
STEP_TOKENS = 1024
SMALL_BYTES = 32 << 20  # of weights: they stay in caches, so it costs nothing that several engines read them
MOST_ENGINES = 2  # of a small model: half of their time is Python's, of which one thread at a time computes


class ModuleWeights:
    """A module's parameters, as `pack` asks for them. Implements `models.packed.Weights`."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors = {named.name: named.tensor for named in official_tensors(module)}
        for name, changed in adapted(module):  # what is sampled from is the matrix with its change
            self.tensors[f"{name}.weight"] = changed.merged().weight.detach()

    def numbers(self, name: str) -> NDArray[Any]:
        """A parameter by its official name, float32, or bf16 as its bits."""
        tensor = self.tensors[name].cpu()
        return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.float().numpy()

    def quantised(self, name: str) -> None:
        """Nothing that is trained is."""
        return None


class Whole:
    """All of a model that learns, though each rank has a part of it: a copy; where one learns alone, the model itself.

    model   as it was at the last `refresh`
    """

    def __init__(self, model: Decoder, ranks: Ranks) -> None:
        """Before the ranks divide it."""
        self.learning, self.ranks = model, ranks
        self.model = deepcopy(model) if ranks.size > 1 else model

    @torch.no_grad()
    def refresh(self) -> None:
        """All ranks ask together."""
        if self.model is not self.learning:
            for own, learnt in zip(self.model.parameters(), self.learning.parameters(), strict=True):
                own.copy_(self.ranks.whole(learnt.detach()))


class OwnChat:
    """A model in training as a `LocalChat`, which `refresh` makes say what the weights say now."""

    def __init__(self, model: Decoder, *, tokenizer: Tokenizer, form: Format, exact: bool = False,
                 cache_bytes: int = CACHE_BYTES, ranks: Ranks = Ranks()) -> None:  # fmt: skip
        """exact   sample with torch from the module itself, in its own precision; else, on a CPU, with our kernels from
        a copy in bf16, many times as fast

        ranks   who learn together; they have not divided the model yet
        """
        self.whole = Whole(model, ranks)
        self.model, on_cpu = self.whole.model, next(model.parameters()).device.type == "cpu"
        torch_only = exact or not on_cpu or unsupported(model.config)
        self.copy = None if torch_only else self._packed()

        def chat(backend: Backend, beside: Sequence[LocalChat] = ()) -> LocalChat:
            engine = Engine(backend, step_tokens=STEP_TOKENS, speculation=None)
            return LocalChat(name="trained", engine=engine, tokenizer=tokenizer, form=form, beside=beside)

        if self.copy is None:
            self.chat = chat(TorchBackend(self.model, cache_bytes=cache_bytes))
            return
        # Threads of one engine wait for each other, and for what is done between steps; waiting takes a core as work
        # does. Engines of a thread each do not: one computes while the other does what is done between steps.
        small = sum(array.nbytes for array in self.copy.arrays.values()) < SMALL_BYTES
        engines, threads = (min(own_threads(), MOST_ENGINES), 1) if small else (1, own_threads())
        # Hundreds of short texts: large pages would be cleared and hardly used.
        backends = [
            CpuBackend(self.copy, cache_bytes=cache_bytes, threads=threads, large_pages=False) for _ in range(engines)
        ]
        self.chat = chat(backends[0], [chat(backend) for backend in backends[1:]])

    def refresh(self) -> LocalChat:
        """The chat with the weights as they are now; what was computed with others is forgotten. Nothing may run."""
        self.whole.refresh()
        if self.copy is not None:
            for name, array in self._packed().arrays.items():
                np.copyto(self.copy.arrays[name], array)
        for chat in (self.chat, *self.chat.beside):
            chat.engine.forget()
        return self.chat

    @torch.no_grad()
    def _packed(self) -> PackedModel:
        return collect(self.model.config, pack(self.model.config, ModuleWeights(self.model), recipe="bf16"))

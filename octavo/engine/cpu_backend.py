"""The CPU backend: whole steps in one call of our kernels, over packed weights. No torch."""

import ctypes
from array import array
from itertools import accumulate, chain
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ConfigError
from octavo.engine.types import Plan
from octavo.models.config import DecoderConfig
from octavo.models.packed import PackedModel
from octavo.nn.kernels.build import usable_cores
from octavo.nn.kernels.library import (
    CACHE_KINDS,
    PAGE_TOKENS,
    CCache,
    CLayer,
    CMatrix,
    CShape,
    CStep,
    Library,
    block_bytes,
    c_matrix,
    open_library,
    pointer,
    reserved,
)
from octavo.nn.packed import PAIR, Kind, PackedMatrix

# What one row more costs a pass, in passes of one row: from decode_8 and decode_1 of bench.cpu on two AVX-512 cores.
ROW_COST: dict[Kind, float] = {"bf16": 0.03, "w8": 0.07, "w4": 0.19, "g8": 0.1, "g4": 0.19, "g4m": 0.19}
EXPERTS_ROW_COST = 0.6  # of a sparse model: each row reads experts of its own
WIDEST_HEAD, WIDEST_GROUP = 256, 64  # what attention.h keeps on its stack


class CpuBackend:
    """Implements `engine.types.Backend`.

    number_bytes   of a number in the cache, its share of a scale included
    row_cost       of one row more in a pass, in passes of one row: what a drafted token costs
    """

    def __init__(self, model: PackedModel, *, cache_bytes: int = 2 << 30, cache_kind: str = "bf16",
                 threads: int | None = None, library: Library | None = None,
                 large_pages: bool = True) -> None:  # fmt: skip
        """cache_bytes   memory that keys and values may take; it is taken as pages are first written
        cache_kind    of keys and values: "bf16", or "int8" (half the memory, a scale per head and token)
        threads       None: one for each core that this process may use
        large_pages   of memory for keys and values: long texts are read faster; the beginning of a text takes 2 MiB,
                      as texts begin far from each other

        Raises ConfigError where not even one page fits, or where `unsupported` names a reason; MemoryNeeded where the
        system does not let this process reserve so much.
        """
        c = model.config
        if reason := unsupported(c):
            raise ConfigError(f"the CPU kernels cannot run this model: {reason}. Use the torch backend.")
        page_bytes = c.layers * c.heads.kv_heads * block_bytes(c.heads.head_width, cache_kind)
        self.page_tokens, self.pages = PAGE_TOKENS, min(cache_bytes // page_bytes, 1 << 30)
        self.vocab_size, self.context_tokens, self.width = c.vocab_size, c.context_tokens, c.heads.width
        if self.pages < 1:
            raise ConfigError(
                f"a page of {PAGE_TOKENS} tokens needs {page_bytes:,} bytes for keys and values, "
                f"cache_bytes={cache_bytes:,} was given: give at least one page."
            )
        self.number_bytes = page_bytes / (2 * c.layers * c.heads.kv_heads * c.heads.head_width * PAGE_TOKENS)
        self.model, self.library = model, library or open_library()
        self.threads = threads or usable_cores()
        self.row_cost = ROW_COST[model.kinds["layers.0.qkv"]] if c.moe is None else EXPERTS_ROW_COST
        self.store = reserved(self.pages * page_bytes, large_pages=large_pages)
        frequency, factor = c.rope.frequencies()
        self.kept: list[object] = [self.store, frequency]
        shape = self._shape(frequency, factor)
        cache = CCache(pointer(self.store), CACHE_KINDS[cache_kind], c.layers, c.heads.kv_heads, c.heads.head_width)
        self.handle = self.library.calls["octavo_open"](ctypes.byref(shape), ctypes.byref(cache), self.threads)
        finalize(self, self.library.calls["octavo_close"], self.handle).atexit = False

    def forward(self, plan: Plan) -> NDArray[np.float32]:
        """Logits (N, V), fp32; keys and values of all the plan's tokens are in their pages afterwards."""
        return self._run(plan, width=-(-self.vocab_size // PAIR) * PAIR, hidden=False)[:, : self.vocab_size]

    def hidden(self, plan: Plan) -> NDArray[np.float32]:
        """Rows (N, D) after the last norm, fp32, instead of their logits."""
        return self._run(plan, width=self.width, hidden=True)

    def _run(self, plan: Plan, *, width: int, hidden: bool) -> NDArray[np.float32]:
        for copy in plan.copies:
            self.library.calls["octavo_copy"](self.handle, copy.source, copy.target, copy.tokens)
        counts = [len(chunk.tokens) for chunk in plan.chunks]
        rows, first = list[int](), 0
        for chunk, count in zip(plan.chunks, counts, strict=True):
            last = first + count
            if chunk.rows == "last":
                rows.append(last - 1)
            elif chunk.rows == "all":
                rows += range(first, last)
            first = last
        sizes = [len(chunk.pages) for chunk in plan.chunks]
        lists = (
            [token for chunk in plan.chunks for token in chunk.tokens], counts, [c.start for c in plan.chunks],
            [page for chunk in plan.chunks for page in chunk.pages], [0, *accumulate(sizes[:-1])], rows,
        )  # fmt: skip
        numbers = array("i", chain.from_iterable(lists))  # all in one: a step of one token has little time for these
        begin, ends = numbers.buffer_info()[0], accumulate(map(len, lists[:-1]), initial=0)
        out_NW = np.empty((len(rows), width), dtype=np.float32)
        places = [begin + end * numbers.itemsize for end in ends]
        step = CStep(first, len(counts), len(rows), hidden, *places, pointer(out_NW))
        self.library.calls["octavo_forward"](self.handle, ctypes.byref(step))
        return out_NW

    def _shape(self, frequency: NDArray[np.float32], factor: float) -> CShape:
        c, moe = self.model.config, self.model.config.moe
        layers = (CLayer * c.layers)(*(self._layer(i) for i in range(c.layers)))
        self.kept.append(layers)
        return CShape(
            c.layers, c.heads.width, c.heads.heads, c.heads.kv_heads, c.heads.head_width, c.inner, c.vocab_size,
            moe.experts if moe else 0, moe.chosen if moe else 0, moe.inner if moe else 0,
            moe.normalise if moe else 0, 0, c.eps, factor, pointer(frequency), ctypes.addressof(layers),
            pointer(self.model.array("norm")), c_matrix(self._kept(self.model.matrix("head"))),
            pointer(self.model.array("embedding")),
        )  # fmt: skip

    def _layer(self, i: int) -> CLayer:
        model, moe = self.model, self.model.config.moe
        norms = [pointer(model.array(f"layers.{i}.{name}")) for name in ("norm_in", "norm_out", "norm_q", "norm_k")]
        attention = [self._matrix(f"layers.{i}.{name}") for name in ("qkv", "out")]
        if moe is None or i in moe.dense_layers:
            return CLayer(*norms, *attention, *(self._matrix(f"layers.{i}.{name}") for name in ("gate_up", "down")))
        experts = [
            (CMatrix * moe.experts)(*(self._matrix(f"layers.{i}.experts.{e}.{name}") for e in range(moe.experts)))
            for name in ("gate_up", "down")
        ]
        self.kept += experts
        router = pointer(model.array(f"layers.{i}.router"))
        return CLayer(*norms, *attention, CMatrix(), CMatrix(), router, *map(ctypes.addressof, experts))

    def _matrix(self, name: str) -> CMatrix:
        return c_matrix(self._kept(self.model.matrix(name)))

    def _kept(self, value: PackedMatrix) -> PackedMatrix:
        self.kept.append(value)
        return value


def unsupported(config: DecoderConfig) -> str:
    """Why the kernels cannot run a model; "" where they can."""
    heads = config.heads
    if heads.head_width % 16 or heads.head_width > WIDEST_HEAD:
        return f"its heads are {heads.head_width} wide, the kernels take multiples of 16 up to {WIDEST_HEAD}"
    if heads.heads // heads.kv_heads > WIDEST_GROUP:
        return f"{heads.heads // heads.kv_heads} query heads share a key head, the kernels take {WIDEST_GROUP}"
    return ""

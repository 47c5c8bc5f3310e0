"""The kernels as Python calls. Structures mirror those of decoder.h.   Axes: T tokens, R rows, N outputs, K inputs."""

import ctypes
import mmap
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_int32, c_size_t, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import KernelError, MemoryNeeded
from octavo.nn.kernels.build import best_that_opens, library_path
from octavo.nn.packed import KINDS, Kind, PackedMatrix, wide

PAGE_TOKENS = 16  # of keys and values, as attention.h lays them out
CACHE_KINDS = {"bf16": 0, "int8": 1}


class CMatrix(Structure):
    """`Matrix` of linear.h."""

    _fields_ = [("kind", c_int32), ("outputs", c_int32), ("inputs", c_int32), ("rotation", c_int32),
                ("data", c_void_p), ("groups", c_void_p), ("scale", c_void_p), ("bias", c_void_p)]  # fmt: skip


class CLayer(Structure):
    """`Layer` of decoder.h."""

    _fields_ = [("norm_in", c_void_p), ("norm_out", c_void_p), ("norm_q", c_void_p), ("norm_k", c_void_p),
                ("qkv", CMatrix), ("out", CMatrix), ("gate_up", CMatrix), ("down", CMatrix),
                ("router", c_void_p), ("expert_gate_up", c_void_p), ("expert_down", c_void_p)]  # fmt: skip


class CShape(Structure):
    """`Shape` of decoder.h."""

    _fields_ = [*((name, c_int32) for name in ("layers", "width", "heads", "kv_heads", "head_width", "inner", "vocab",
                                               "experts", "chosen", "expert_inner", "normalise", "reserved")),
                ("eps", c_float), ("rope_factor", c_float), ("frequency", c_void_p), ("layer", c_void_p),
                ("norm", c_void_p), ("head", CMatrix), ("embedding", c_void_p)]  # fmt: skip


class CCache(Structure):
    """`Cache` of attention.h."""

    _fields_ = [("blocks", c_void_p), ("kind", c_int32), ("layers", c_int32), ("kv_heads", c_int32),
                ("head_width", c_int32)]  # fmt: skip


class CStep(Structure):
    """`Step` of decoder.h."""

    _fields_ = [("tokens", c_int32), ("sequences", c_int32), ("rows", c_int32), ("hidden", c_int32),
                ("token", c_void_p), ("count", c_void_p), ("start", c_void_p), ("pages", c_void_p),
                ("page_at", c_void_p), ("row", c_void_p), ("logits", c_void_p)]  # fmt: skip


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {  # name -> result, arguments
    "octavo_ready": (c_int, []),
    "octavo_open": (c_void_p, [POINTER(CShape), POINTER(CCache), c_int]),
    "octavo_close": (None, [c_void_p]),
    "octavo_forward": (None, [c_void_p, POINTER(CStep)]),
    "octavo_copy": (None, [c_void_p, c_int, c_int, c_int]),
    "octavo_linear": (None, [POINTER(CMatrix), c_void_p, c_int, c_void_p]),
    "octavo_attend": (None, [POINTER(CCache), *[c_void_p] * 3, *[c_int] * 3, c_float, c_void_p]),
    "octavo_crew": (None, [c_int, c_int, *[c_void_p] * 4]),
    "octavo_bandwidth": (c_double, [c_void_p, c_size_t, c_int]),
    "octavo_matrix_rate": (c_double, [c_int, c_int]),
}


class Library:
    """One compiled library. tier: the instruction set it was made for."""

    def __init__(self, tier: str, *, extra_flags: tuple[str, ...] = ()) -> None:
        """Raises KernelError where the library cannot be made or loaded."""
        path = library_path(tier, extra_flags=extra_flags)
        self.tier = tier
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as cause:
            raise KernelError(f"{path} cannot be loaded ({cause}): remove it, and it is made again.") from cause
        self.calls: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in SIGNATURES.items():
            call = getattr(loaded, name)
            call.restype, call.argtypes = result, arguments
            self.calls[name] = call
        if not self.calls["octavo_ready"]():
            raise KernelError(f"the system does not let this process use the instructions of {tier!r}.")

    def linear(self, matrix: PackedMatrix, x_RK: NDArray[np.float32]) -> NDArray[np.float32]:
        """x times a packed matrix on one thread: (R, outputs), fp32."""
        rows, inputs = x_RK.shape
        padded_RK = aligned((rows, wide(inputs)), np.float32)
        padded_RK[:, :inputs] = x_RK
        out_RN = aligned((rows, matrix.outputs), np.float32)
        self.calls["octavo_linear"](byref(c_matrix(matrix)), pointer(padded_RK), rows, pointer(out_RN))
        return out_RN

    def attend(self, q_QK: NDArray[np.float32], k_TK: NDArray[np.float32], v_TK: NDArray[np.float32], *,
               group: int, kind: str, scale: float) -> NDArray[np.float32]:  # fmt: skip
        """Attention of one key/value head; q: of the last Q/group tokens, `group` neighbours to a token. (Q, K)."""
        tokens, width = k_TK.shape
        pages = -(-tokens // PAGE_TOKENS)
        blocks = aligned((pages * block_bytes(width, kind),), np.uint8)
        cache = CCache(pointer(blocks), CACHE_KINDS[kind], 1, 1, width)
        q, k, v = (np.ascontiguousarray(x, dtype=np.float32) for x in (q_QK, k_TK, v_TK))
        out_QK = aligned(q.shape, np.float32)
        self.calls["octavo_attend"](
            byref(cache), pointer(q), pointer(k), pointer(v), tokens, len(q), group, scale, pointer(out_QK)
        )
        return out_QK

    def crew(self, tokens_C: NDArray[np.int32], seconds_CT: NDArray[np.float64],
             waited_C: NDArray[np.float64]) -> NDArray[np.int32]:  # fmt: skip
        """Threads that each of C calls would have, of T, where a call takes so long with 1, 2 .. T threads. (C,).

        tokens_C   of each call;   waited_C   share of the time, 0..1, that threads of a call with all of them wait for
        the last one
        """
        seconds, waited = (np.ascontiguousarray(x, dtype=np.float64) for x in (seconds_CT, waited_C))
        tokens, (count, most) = np.ascontiguousarray(tokens_C, dtype=np.int32), seconds.shape
        sizes_C = np.zeros(count, dtype=np.int32)
        self.calls["octavo_crew"](most, count, *(pointer(x) for x in (tokens, seconds, waited, sizes_C)))
        return sizes_C

    def bandwidth(self, threads: int, *, size_bytes: int = 1 << 29) -> float:
        """Bytes per second that so many threads read from memory: the best of three."""
        data = np.ones(size_bytes, dtype=np.uint8)
        return max(self.calls["octavo_bandwidth"](pointer(data), size_bytes, threads) for _ in range(3))

    def matrix_rate(self, kind: Kind, threads: int) -> float:
        """Multiply-adds per second of the instructions behind this kind, between registers: the best of three."""
        return max(self.calls["octavo_matrix_rate"](KINDS[kind], threads) for _ in range(3))


@cache
def open_library(tier: str | None = None) -> Library:
    """The best library that this CPU and system can run, or that of another instruction set. Raises KernelError."""
    return best_that_opens(Library) if tier is None else Library(tier)


def pointer(array: NDArray[Any]) -> int:
    """Where an array's numbers begin; 0 for an empty one. The caller keeps the array."""
    return array.ctypes.data if array.size else 0


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A zeroed array that begins on a cache line. Large ones take memory only as they are written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)


def reserved(size_bytes: int, *, large_pages: bool) -> NDArray[np.uint8]:
    """Zeroed memory for keys and values, on a cache line, taken only as it is written. Raises MemoryNeeded.

    large_pages   where the system has them
    """
    try:
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared gets no large pages
    except OSError as cause:
        raise MemoryNeeded(
            f"{size_bytes:,} bytes were to be reserved for keys and values, and this process may not have so many "
            f"({cause.strerror}): raise its limit (ulimit -v), or set OCTAVO_MEMORY_BYTES to what it may take, half of "
            f"which goes to keys and values."
        ) from cause
    if large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


def block_bytes(head_width: int, kind: str) -> int:
    """Of keys and values of one page and head."""
    return 2 * PAGE_TOKENS * head_width * 2 if kind == "bf16" else 2 * PAGE_TOKENS * (head_width + 4)


def c_matrix(m: PackedMatrix) -> CMatrix:
    """As the kernels take it. The arrays must outlive it."""
    arrays = (m.data, m.groups, m.scale, m.bias)
    return CMatrix(KINDS[m.kind], m.outputs, m.inputs, m.rotation, *map(pointer, arrays))

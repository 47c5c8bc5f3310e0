"""The kernels of training over torch tensors on a CPU: what stands between the matrix products, forward and backward.

Activations are float32 or bfloat16; the residual stream, norms' weights and their gradients are float32. All tensors
are contiguous.   Axes: T tokens, D model, I inner width, J = H + 2G heads of queries, keys and values, K head width, V
vocabulary, N tokens to predict."""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_void_p
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from octavo.core.errors import KernelError
from octavo.nn.context import Length, length_parts, length_tokens
from octavo.nn.kernels.build import best_that_opens, library_path
from octavo.nn.shapes import HeadShape

LANES = 16  # widths are multiples of it
MOST_HEAD_WIDTH = 512
STEP = 32  # widths of what goes through an MLP by tiles are multiples of it
MOST_MLP_WIDTH = 512  # wider ones wait for their weights: torch's products take less there
KINDS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class CDocuments(Structure):
    """`Documents` of documents.h."""

    _fields_ = [*((name, c_int32) for name in ("documents", "heads", "groups", "width", "threads")),
                ("eps", c_float), ("scale", c_float),
                *((name, c_void_p) for name in ("start", "trunk", "since", "until", "qkv", "norm_q", "norm_k", "cos",
                                                "sin", "out", "size", "dout", "dqkv", "dnorm_q",
                                                "dnorm_k"))]  # fmt: skip


SIGNATURES: dict[str, list[Any]] = {
    "norm_forward": [c_int, c_int, *[c_void_p] * 3, c_float, *[c_void_p] * 2, c_int],
    "norm_backward": [c_int, c_int, *[c_void_p] * 3, c_float, *[c_void_p] * 2, c_int, c_void_p, c_int],
    "swiglu_forward": [c_int, c_int, *[c_void_p] * 2, c_int],
    "swiglu_backward": [c_int, c_int, *[c_void_p] * 4, c_int],
    "surprise": [c_int, c_int, *[c_void_p] * 5, c_int],
    "divergence": [c_int, c_int, *[c_void_p] * 4, c_int, c_int],
    "documents_forward": [POINTER(CDocuments)],
    "documents_backward": [POINTER(CDocuments)],
}


TILE_SIGNATURES: dict[str, list[Any]] = {
    "outer": [*[c_int] * 3, *[c_void_p] * 3, *[c_int] * 4],
    "mlp_panels": [*[c_int] * 2, *[c_void_p] * 7],
    "mlp_forward": [*[c_int] * 3, *[c_void_p] * 5, c_int],
    "mlp_backward": [*[c_int] * 3, *[c_void_p] * 6, c_int],
}


class Panels(NamedTuple):
    """An MLP's weights as products by tiles want them, bf16: forward, then backward."""

    width: int
    inner: int
    into: Tensor
    out: Tensor
    into_back: Tensor
    out_back: Tensor


class Tiles(NamedTuple):
    """Rows (rows, width), bf16, as tiles: 32 rows by 32 columns one after the other, as `mlp` and `outer` want them.

    pairs   columns are 16 gates, 16 ups, and so on
    """

    numbers: Tensor
    rows: int
    width: int
    pairs: bool = False

    @classmethod
    def empty(cls, rows: int, width: int, *, pairs: bool = False) -> "Tiles":
        """Room for them."""
        return cls(torch.empty(-(-rows // STEP) * STEP * width, dtype=torch.bfloat16), rows, width, pairs)


class Documents:
    """Documents end to end on the axis of T tokens, and what attention needs to know of a model's heads."""

    def __init__(self, shape: HeadShape, lengths: Sequence[Length], cos_TK: Tensor, sin_TK: Tensor) -> None:
        """lengths: of each document. cos, sin: of every token, float32, as `rotation` gives them."""
        self.shape, self.cos_TK, self.sin_TK = shape, cos_TK.contiguous(), sin_TK.contiguous()
        starts, trunks, spans = [0], list[int](), list[tuple[int, int, int]]()  # a span: since, until, how many tokens
        for length in lengths:
            tokens = length_tokens(length)
            trunk, *branches = length_parts(length)
            spans.append((0, tokens, trunk))
            spans += [(first, end, end - first) for first, end in pairwise(accumulate(branches, initial=trunk))]
            starts.append(starts[-1] + tokens)
            trunks.append(trunk)
        self.starts, self.trunks = (torch.tensor(x, dtype=torch.int32) for x in (starts, trunks))
        since, until, counts = torch.tensor(spans, dtype=torch.int32).view(-1, 3).unbind(1)
        self.since_T, self.until_T = since.repeat_interleave(counts), until.repeat_interleave(counts)


class TrainingKernels:
    """One compiled library. threads: of each call; they change no bit of what comes out."""

    def __init__(self, tier: str, *, threads: int = 1) -> None:
        """Raises KernelError where the library cannot be made or loaded."""
        path, self.threads = library_path(tier, source="training.cpp"), threads
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as cause:
            raise KernelError(f"{path} cannot be loaded ({cause}): remove it, and it is made again.") from cause
        if not loaded.octavo_training_ready():
            raise KernelError(f"the system does not let this process use the instructions of {tier!r}.")
        self.calls: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
        for name, arguments in SIGNATURES.items():
            for dtype, kind in KINDS.items():
                call = getattr(loaded, f"octavo_{name}_{kind}")
                call.restype, call.argtypes = None, arguments
                self.calls[name, dtype] = call
        self.tiles: dict[str, Callable[..., None]] = {}  # empty where there are none
        for name, arguments in TILE_SIGNATURES.items() if loaded.octavo_training_tiles() else ():
            call = getattr(loaded, f"octavo_{name}")
            call.restype, call.argtypes = None, arguments
            self.tiles[name] = call

    def norm(self, x_TD: Tensor, added_TD: Tensor | None, weight_D: Tensor, *, eps: float, dtype: torch.dtype,
             ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """x + added (x itself where nothing is added), float32, and its RMS norm in `dtype`."""
        sum_TD, y_TD = x_TD if added_TD is None else torch.empty_like(x_TD), torch.empty(x_TD.shape, dtype=dtype)
        self.calls["norm_forward", dtype](
            *x_TD.shape, at(x_TD), at(added_TD), at(weight_D), eps, at(sum_TD), at(y_TD), self.threads
        )
        return sum_TD, y_TD

    def norm_back(self, dy_TD: Tensor, x_TD: Tensor, weight_D: Tensor, *, eps: float, dx_TD: Tensor | None,
                  dweight_D: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """dx (added to in place, or new) and dx in dy's type. dweight is added to."""
        fresh, dx_TD = dx_TD is None, torch.empty_like(x_TD) if dx_TD is None else dx_TD
        low_TD = dx_TD if dy_TD.dtype == torch.float32 else torch.empty_like(dy_TD)
        self.calls["norm_backward", dy_TD.dtype](
            *x_TD.shape, at(dy_TD), at(x_TD), at(weight_D), eps, at(dx_TD), None if low_TD is dx_TD else at(low_TD),
            fresh, at(dweight_D), self.threads,
        )  # fmt: skip
        return dx_TD, low_TD

    def swiglu(self, both: Tensor) -> Tensor:
        """silu(gate) * up (T, I) of gate and up side by side (T, 2I)."""
        rows, inner = len(both), both.shape[1] // 2
        made_TI = both.new_empty(rows, inner)
        self.calls["swiglu_forward", both.dtype](rows, inner, at(both), at(made_TI), self.threads)
        return made_TI

    def swiglu_back(self, dmade_TI: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient by gate and up (T, 2I), in the memory of `both`, and what `swiglu` made."""
        made_TI = torch.empty_like(dmade_TI)
        self.calls["swiglu_backward", both.dtype](
            *dmade_TI.shape, at(dmade_TI), at(both), at(both), at(made_TI), self.threads
        )
        return both, made_TI

    def outer(self, dy_TN: Tensor | Tiles, x_TD: Tensor | Tiles) -> Tensor:
        """dy transposed times x, float32: the gradient (N, D) of a matrix of weights. By tiles, or torch's product.

        Of pairs, first the rows of all gates are given, then those of all ups.
        """
        if isinstance(dy_TN, Tensor) and isinstance(x_TD, Tensor) and not self._fits(dy_TN, x_TD):
            return (dy_TN.T @ x_TD).float()
        tiled = [isinstance(x, Tiles) for x in (dy_TN, x_TD)]
        (tokens, outputs), (_, inputs) = ((x.rows, x.width) if isinstance(x, Tiles) else x.shape for x in (dy_TN, x_TD))
        if not tokens:
            return torch.zeros(outputs, inputs)
        made_ND = torch.empty(outputs, inputs)
        half = outputs // 2 if isinstance(dy_TN, Tiles) and dy_TN.pairs else 0
        places = (at(x.numbers if isinstance(x, Tiles) else x) for x in (dy_TN, x_TD))
        self.tiles["outer"](tokens, outputs, inputs, *places, at(made_ND), *tiled, half, self.threads)
        return made_ND

    def _fits(self, dy_TN: Tensor, x_TD: Tensor) -> bool:
        (tokens, outputs), inputs = dy_TN.shape, x_TD.shape[1]
        widths = outputs % LANES == 0 == inputs % LANES
        return bool(self.tiles) and dy_TN.dtype == torch.bfloat16 and tokens > 0 and widths

    def panels(self, gate_ID: Tensor, up_ID: Tensor, down_DI: Tensor, *, dtype: torch.dtype) -> Panels | None:
        """The weights (float32) of an MLP for `mlp`, None where it is not the way to go: no tiles, or other widths."""
        inner, width = gate_ID.shape
        if not self.tiles or dtype != torch.bfloat16 or width % STEP or inner % STEP or width > MOST_MLP_WIDTH:
            return None
        made = Panels(width, inner, *(torch.empty(n * inner * width, dtype=dtype) for n in (2, 1, 2, 1)))
        self.tiles["mlp_panels"](width, inner, *map(at, (gate_ID, up_ID, down_DI, *made[2:])))
        return made

    def mlp(self, x_TD: Tensor, panels: Panels) -> tuple[Tiles, Tensor]:
        """down(silu(gate(x)) * up(x)), bf16; and gates and ups (T, 2I), pairs, for `mlp_back`."""
        pairs, out_TD = Tiles.empty(len(x_TD), 2 * panels.inner, pairs=True), torch.empty_like(x_TD)
        tensors = map(at, (x_TD, panels.into, panels.out, pairs.numbers, out_TD))
        self.tiles["mlp_forward"](len(x_TD), panels.width, panels.inner, *tensors, self.threads)
        return pairs, out_TD

    def mlp_back(self, dout_TD: Tensor, pairs: Tiles, panels: Panels) -> tuple[Tensor, Tiles]:
        """The gradient by x, and what `down` was given (T, I). pairs become their own gradient."""
        dx_TD, made_TI = torch.empty_like(dout_TD), Tiles.empty(len(dout_TD), panels.inner)
        tensors = map(at, (dout_TD, panels.out_back, panels.into_back, pairs.numbers, made_TI.numbers, dx_TD))
        self.tiles["mlp_backward"](len(dout_TD), panels.width, panels.inner, *tensors, self.threads)
        return dx_TD, made_TI

    def surprise(self, logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, *,
                 entropy: bool = False) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Log-probabilities of the targets and, where wanted, entropies, nats, float32.

        With weights, logits become the gradient of the sum of weights times -log p by them, in place.
        """
        logprobs_N = torch.empty(len(logits_NV))
        entropy_N = torch.empty(len(logits_NV)) if entropy else None
        self.calls["surprise", logits_NV.dtype](
            *logits_NV.shape, at(logits_NV), at(targets_N), at(weights_N), at(logprobs_N),
            at(entropy_N), self.threads,
        )  # fmt: skip
        return logprobs_N, entropy_N

    def divergence(self, ours_NV: Tensor, theirs_NV: Tensor, weights_N: Tensor, *, reverse: bool) -> Tensor:
        """KL(ours || theirs) of each row of logits where `reverse`, else KL(theirs || ours), nats, float32.

        ours become the gradient of the sum of weights times it by them, in place.
        """
        assert ours_NV.dtype == theirs_NV.dtype and ours_NV.shape == theirs_NV.shape
        far_N = torch.empty(len(ours_NV))
        self.calls["divergence", ours_NV.dtype](
            *ours_NV.shape, *map(at, (ours_NV, theirs_NV, weights_N, far_N)), reverse, self.threads
        )
        return far_N

    def attend(self, qkv_TJK: Tensor, documents: Documents, norm_K: tuple[Tensor, Tensor] | None,
               ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Attention (T, H, K) of each document over itself, from projections; and what the backward pass needs (H, T).

        norm_K   weights of the norms of queries and keys, or None
        """
        tokens, _, width = qkv_TJK.shape
        out_THK = qkv_TJK.new_empty(tokens, documents.shape.heads, width)
        size_HT = torch.empty(documents.shape.heads, tokens)
        call = self._documents(qkv_TJK, documents, norm_K)
        call.out, call.size = at(out_THK), at(size_HT)
        self.calls["documents_forward", qkv_TJK.dtype](byref(call))
        return out_THK, size_HT

    def attend_back(self, dout_THK: Tensor, qkv_TJK: Tensor, documents: Documents,
                    norm_K: tuple[Tensor, Tensor] | None, *, made: tuple[Tensor, Tensor],
                    dnorm_K: tuple[Tensor, Tensor] | None) -> Tensor:  # fmt: skip
        """The gradient by the projections. made: what `attend` gave. dnorm is added to."""
        dqkv_TJK = torch.empty_like(qkv_TJK)
        call = self._documents(qkv_TJK, documents, norm_K)
        call.out, call.size, call.dout, call.dqkv = at(made[0]), at(made[1]), at(dout_THK), at(dqkv_TJK)
        if dnorm_K is not None:
            call.dnorm_q, call.dnorm_k = map(at, dnorm_K)
        self.calls["documents_backward", qkv_TJK.dtype](byref(call))
        return dqkv_TJK

    def _documents(self, qkv_TJK: Tensor, documents: Documents, norm_K: tuple[Tensor, Tensor] | None) -> CDocuments:
        s = documents.shape
        call = CDocuments(len(documents.starts) - 1, s.heads, s.kv_heads, s.head_width, self.threads, s.eps,
                          s.head_width**-0.5)  # fmt: skip
        call.start, call.trunk, call.qkv = at(documents.starts), at(documents.trunks), at(qkv_TJK)
        call.since, call.until = at(documents.since_T), at(documents.until_T)
        call.cos, call.sin = at(documents.cos_TK), at(documents.sin_TK)
        if norm_K is not None:
            call.norm_q, call.norm_k = map(at, norm_K)
        return call


def at(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin. The caller keeps the tensor."""
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


@cache
def training_kernels(tier: str | None = None, *, threads: int = 1) -> TrainingKernels:
    """The kernels for this CPU, or for another instruction set that it has. Raises KernelError."""
    if tier is not None:
        return TrainingKernels(tier, threads=threads)
    return best_that_opens(lambda best: TrainingKernels(best, threads=threads))

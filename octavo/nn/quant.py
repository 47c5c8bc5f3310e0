"""Weights and activations as small integers. No torch: NumPy arrays in, NumPy arrays out.

Axes: T tokens, N outputs (channels), K inputs, G groups of E = 32 inputs each.

w8   weight = q_NK * scale_N                q int8 in -127 .. 127
w4   weight = q_NK * group_NG * scale_N     q in -8 .. 7, group a whole number in 1 .. 15, so q * group is an int8 too

A product with activations that are quantised per token is a sum of whole numbers, which no order of adding changes.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Int8s = NDArray[np.int8]

GROUP = 32  # inputs that share one group scale
TOP = 127  # of an int8; -128 is not used, so that a number and its negative are both there
LOW4, TOP4, MOST_GROUP = -8, 7, 15
MOST_INPUTS = 131_072  # K above which a sum of 127 * 127 could leave an int32
SMALLEST = 1e-30  # a row whose largest number is below this is zero
CHUNK_NUMBERS = 1 << 16  # of a weight searched at once: what NumPy makes on the way stays in the cache

# What is tried. w8: a row's largest number / 127, times these. w4: a group's largest number / these, then the largest
# of a row's steps / these as the channel's scale.
SHRINKS8 = (1.0, 0.95, 0.88, 0.78)
DIVISORS4 = (7.0, 7.5, 8.0, 8.5, 6.5, 9.25, 10.0)
CHANNEL_DIVISORS4 = (15.0, 14.5, 14.0, 13.5, 13.0, 12.0, 16.0, 17.0, 18.5, 20.0)


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight of 8 bits per number and 32 per row.   q_NK: int8, -127 .. 127;   scale_N: float32, not negative."""

    q_NK: Int8s
    scale_N: Floats

    def integers(self) -> Int8s:
        """What is multiplied with activations, (N, K)."""
        return self.q_NK

    def dense(self) -> Floats:
        """The weight itself, (N, K)."""
        return self.q_NK * self.scale_N[:, None]


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """A weight of 4.125 bits per number and 32 per row.

    q_NK       int8, -8 .. 7;   group_NG: uint8, 1 .. 15, G = K / 32 rounded up;   scale_N: float32, not negative
    """

    q_NK: Int8s
    group_NG: NDArray[np.uint8]
    scale_N: Floats

    def integers(self) -> Int8s:
        """What is multiplied with activations, (N, K): q * group, -120 .. 105."""
        group_NK = np.repeat(self.group_NG.view(np.int8), GROUP, axis=1)[:, : self.q_NK.shape[1]]
        return self.q_NK * group_NK

    def dense(self) -> Floats:
        """The weight itself, (N, K)."""
        return self.integers() * self.scale_N[:, None]


Weight = Int8Weight | Int4Weight
W = TypeVar("W", Int8Weight, Int4Weight)


def round_w8(weight_NK: Floats) -> Int8Weight:
    """Round to nearest: each row's largest number becomes 127."""
    scale_N = np.abs(weight_NK).max(axis=1).astype(np.float32) / np.float32(TOP)
    return Int8Weight(_levels(weight_NK, scale_N[:, None], low=-TOP, top=TOP).astype(np.int8), scale_N)


def round_w4(weight_NK: Floats) -> Int4Weight:
    """Round to nearest: each group's largest number becomes 7, but for the rounding of the group's scale."""
    w_NGE = _grouped(weight_NK)
    step_NG = np.abs(w_NGE).max(axis=2) / np.float32(TOP4)
    scale_N = step_NG.max(axis=1) / np.float32(MOST_GROUP)
    return _int4(w_NGE, _groups(step_NG, scale_N), scale_N, inputs=weight_NK.shape[1])


def quantise_w8(weight_NK: Floats, *, importance_K: Floats | None = None) -> Int8Weight:
    """The scales of least squared error among those tried; never worse than `round_w8`.

    importance_K   weight of each input's error, E[x_k^2] of the activations; None: all alike
    """
    importance = np.ones(weight_NK.shape[1], np.float32) if importance_K is None else _positive(importance_K)
    return joined(_by_rows(weight_NK, lambda rows: _search8(rows, importance)))


def quantise_w4(weight_NK: Floats, *, importance_K: Floats | None = None) -> Int4Weight:
    """The scales of least squared error among those tried; never worse than `round_w4`.

    importance_K   weight of each input's error, E[x_k^2] of the activations; None: all alike
    """
    importance = np.ones(weight_NK.shape[1], np.float32) if importance_K is None else _positive(importance_K)
    return joined(_by_rows(weight_NK, lambda rows: _search4(rows, importance)))


def quantise_rows(x_TK: Floats) -> tuple[Int8s, Floats]:
    """Activations as int8 (T, K) and a scale per token (T,): the largest number of a row becomes 127.

    q = x * (127 / largest) in float32, rounded to nearest, half to even; scale = largest / 127. A row whose largest
    number is below 1e-30 is zero, and so is its scale.
    """
    largest_T = np.abs(x_TK).max(axis=1).astype(np.float32)
    zero_T = largest_T < SMALLEST
    inverse_T = np.float32(TOP) / np.where(zero_T, np.float32(1), largest_T)
    inverse_T[zero_T] = 0
    q_TK = np.rint(x_TK * inverse_T[:, None]).astype(np.int8)
    return q_TK, np.where(zero_T, np.float32(0), largest_T / np.float32(TOP))


def matmul_reference(x_TK: Floats, weight: Weight) -> Floats:
    """x @ weight.T, (T, N) float32, as every kernel has to compute it.

    The sum of whole numbers is exact in an int32; it becomes a float32, times the token's scale, times the channel's,
    each rounded once.
    """
    q_TK, scale_T = quantise_rows(x_TK)
    w_NK = weight.integers()
    assert w_NK.shape[1] <= MOST_INPUTS, f"a sum over {w_NK.shape[1]:,} inputs may leave an int32"
    sum_TN = (q_TK.astype(np.float64) @ w_NK.T.astype(np.float64)).astype(np.int32)  # exact: far below 2^53
    return (sum_TN.astype(np.float32) * scale_T[:, None] * weight.scale_N).astype(np.float32)


def split(weight: Weight, rows: Sequence[int]) -> list[Weight]:
    """A weight cut into so many rows each: views."""
    ends = list(accumulate(rows))
    assert ends[-1] == len(weight.scale_N), f"{len(weight.scale_N)} rows cannot be split into {list(rows)}"
    cuts = [slice(end - count, end) for end, count in zip(ends, rows, strict=True)]
    return [replace(weight, **{f.name: getattr(weight, f.name)[cut] for f in fields(weight)}) for cut in cuts]


def _search8(w_NK: Floats, importance_K: Floats) -> Int8Weight:
    root_K, best = np.sqrt(importance_K), round_w8(w_NK)
    first_N, q_NK, scale_N = best.scale_N, best.q_NK.astype(np.float32), best.scale_N
    error_N = _squares((q_NK * scale_N[:, None] - w_NK) * root_K)
    for shrink in SHRINKS8:
        tried_NK = _levels(w_NK, (first_N * np.float32(shrink))[:, None], low=-TOP, top=TOP)
        fitted_N = _fit(w_NK, tried_NK, root_K)
        found_N = _squares((tried_NK * fitted_N[:, None] - w_NK) * root_K)
        better_N = found_N < error_N
        error_N, scale_N = np.where(better_N, found_N, error_N), np.where(better_N, fitted_N, scale_N)
        q_NK[better_N] = tried_NK[better_N]
    return Int8Weight(q_NK.astype(np.int8), scale_N)


def _search4(w_NK: Floats, importance_K: Floats) -> Int4Weight:
    """First each group's best step, then the channel scale that serves these steps best, then both once more."""
    w_NGE, inputs = _grouped(w_NK), w_NK.shape[1]
    root_GE = _grouped(np.sqrt(importance_K)[None])[0]

    def error(step_NG: NDArray[Any]) -> Floats:
        q_NGE = _levels(w_NGE, step_NG[..., None], low=LOW4, top=TOP4)
        return _squares((q_NGE * step_NG[..., None] - w_NGE) * root_GE)

    largest_NG = np.abs(w_NGE).max(axis=2)
    errors_DNG = np.stack([error(largest_NG / np.float32(d)) for d in DIVISORS4])
    step_NG = largest_NG / np.asarray(DIVISORS4, np.float32)[errors_DNG.argmin(axis=0)]

    plain = round_w4(w_NK)
    scale_N, group_NG = plain.scale_N, plain.group_NG
    least_NG = error(group_NG * scale_N[:, None])
    for divisor in CHANNEL_DIVISORS4:
        tried_N = step_NG.max(axis=1) / np.float32(divisor)
        tried_NG = _groups(step_NG, tried_N)
        found_NG = error(tried_NG * tried_N[:, None])
        better_N = found_NG.sum(axis=1) < least_NG.sum(axis=1)
        scale_N = np.where(better_N, tried_N, scale_N)
        group_NG = np.where(better_N[:, None], tried_NG, group_NG)
        least_NG = np.where(better_N[:, None], found_NG, least_NG)
    for change in (1, -1):
        tried_NG = np.clip(group_NG.astype(np.int16) + change, 1, MOST_GROUP).astype(np.uint8)
        found_NG = error(tried_NG * scale_N[:, None])
        group_NG, least_NG = np.where(found_NG < least_NG, tried_NG, group_NG), np.minimum(found_NG, least_NG)
    found = _int4(w_NGE, group_NG, scale_N, inputs=inputs)
    levels_NK = found.integers().astype(np.float32)
    root_K = np.sqrt(importance_K)
    fitted_N = _fit(w_NK, levels_NK, root_K)
    now_N, before_N = (_squares((levels_NK * s[:, None] - w_NK) * root_K) for s in (fitted_N, scale_N))
    return Int4Weight(found.q_NK, group_NG, np.where(now_N < before_N, fitted_N, scale_N))


def joined(parts: Sequence[W]) -> W:
    """Weights of one kind and width, one below the other."""
    arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    return replace(parts[0], **arrays)


def _by_rows(weight_NK: Floats, search: Callable[[Floats], W]) -> list[W]:
    """The search over blocks of rows, on all cores: NumPy holds no lock while it computes."""
    rows = max(1, CHUNK_NUMBERS // weight_NK.shape[1])
    chunks = [weight_NK[i : i + rows] for i in range(0, len(weight_NK), rows)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, chunks))


def _levels(w: Floats, step: Floats, *, low: int, top: int) -> Floats:
    """w / step as whole numbers from low to top; 0 where the step is 0. step: as w, or with axes of 1."""
    inverse = np.float32(1) / np.where(step > SMALLEST, step, np.float32(np.inf))
    levels = (w * inverse).astype(np.float32, copy=False)
    np.clip(np.rint(levels, out=levels), low, top, out=levels)
    return levels


def _fit(w_NK: Floats, q_NK: Floats, root_K: Floats) -> Floats:
    """The scale (N,) at which q is nearest to w, both weighted with root."""
    wide_NK, tall_NK = q_NK * root_K, w_NK * root_K
    above_N, below_N = (np.einsum("nk,nk->n", wide_NK, x, dtype=np.float64) for x in (tall_NK, wide_NK))
    return np.maximum(above_N / np.where(below_N > 0, below_N, 1), 0).astype(np.float32)


def _squares(difference: Floats) -> Floats:
    """The sum of squares over the last axis."""
    return np.einsum("...k,...k->...", difference, difference)


def _groups(step_NG: Floats, scale_N: Floats) -> NDArray[np.uint8]:
    """Steps as whole multiples, 1 .. 15, of the channel's scale."""
    return _levels(step_NG, scale_N[:, None], low=1, top=MOST_GROUP).astype(np.uint8)


def _int4(w_NGE: Floats, group_NG: NDArray[np.uint8], scale_N: Floats, *, inputs: int) -> Int4Weight:
    q_NGE = _levels(w_NGE, (group_NG * scale_N[:, None])[..., None], low=LOW4, top=TOP4)
    return Int4Weight(q_NGE.reshape(len(w_NGE), -1)[:, :inputs].astype(np.int8), group_NG, scale_N)


def _grouped(weight_NK: Floats) -> Floats:
    """(N, K) -> (N, G, 32), the last group filled up with zeros."""
    rows, inputs = weight_NK.shape
    padded = np.pad(weight_NK, ((0, 0), (0, -inputs % GROUP)))
    return padded.reshape(rows, -1, GROUP)


def _positive(importance_K: Floats) -> Floats:
    """Importances over their mean, none below a ten-thousandth of it: an input that was silent may speak later."""
    mean = float(importance_K.mean()) or 1.0
    return np.maximum(importance_K / np.float32(mean), np.float32(1e-4))

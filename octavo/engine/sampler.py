"""Logits -> the next token.   Axes: V vocabulary, C candidates, B blocks of the vocabulary.

Pure: the same logits, settings, history and (seed, reply, position) give the same token, whatever else is running.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import isfinite, isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling

BLOCK = 64  # numbers of a block: the k largest values lie in the k blocks with the largest maxima
STRIP = 512  # neighbours whose weights are added up first, where the vocabulary is long
LOOKS = (64, 1024)  # candidates that top_p tries before it sorts them all
TOGETHER = 1 << 16  # numbers of the rows that are looked at together: they stay in the cache
AHEAD = 64  # random numbers that are drawn at once
NOT_FINITE = "the model's numbers are not finite: its weights are damaged, or overflow in this type."


class Choice(NamedTuple):
    """A token. logprob in nats under the model's own distribution, and the likeliest beside it, where asked for."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class Ask(NamedTuple):
    """What `choose_many` is told of a row.   number   the random number of its draw;   mask   as for `choose`"""

    sampling: Sampling
    number: float
    mask: NDArray[np.int32] | None


class Draws:
    """The random numbers of one reply: those of `uniform`, some at once."""

    def __init__(self, *, seed: int, reply: int) -> None:
        self.seed, self.reply, self.first, self.known = seed, reply, 0, list[float]()

    def at(self, position: int) -> float:
        """The one of a position."""
        if not 0 <= position - self.first < len(self.known):
            self.first, self.known = position, uniforms((self.seed, self.reply, position), count=AHEAD)
        return self.known[position - self.first]


class History:
    """What the penalties of one reply look at: tokens of the prompt, and of the reply with their counts."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self.seen, self.reply = set(prompt), Counter[int]()

    def add(self, token: int) -> None:
        """One token more in the reply."""
        self.reply[token] += 1


def choose(logits_V: NDArray[np.float32], sampling: Sampling, *, history: History, mask: NDArray[np.int32] | None,
           number: float) -> Choice:  # fmt: skip
    """The next token.

    mask     bits of the tokens that may come (bit i%32 of word i//32); None: all may
    number   the random number of the draw, in [0, 1)
    At equal logits the smaller id comes first. Raises RequestError where the model gives no finite logit.
    Sources: top-k, arXiv:1805.04833; top-p, arXiv:1904.09751; min-p, arXiv:2407.01082.
    """
    changed_V = adjusted(logits_V, sampling, history=history, mask=mask)
    likely = int(np.argmax(changed_V))
    if not np.isfinite(changed_V[likely]):  # a NaN counts as the largest
        raise RequestError(NOT_FINITE)
    token = likely if sampling.temperature == 0 else _sample(changed_V, sampling, number=number)
    if sampling.logprobs is None:
        return Choice(token, None, ())
    return Choice(token, *logprobs_of(logits_V, token, likeliest=sampling.logprobs))


def is_plain(sampling: Sampling) -> bool:
    """Whether `choose_many` can: all candidates, nothing that changes logits, and no others' log-probabilities."""
    s = sampling
    penalised = s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty or s.logit_bias
    return not (penalised or s.top_k or s.top_p < 1 or s.min_p or s.logprobs)


def choose_many(rows_1V: Sequence[NDArray[np.float32]], asks: Sequence[Ask]) -> list[Choice | None]:
    """As `choose` for rows, (1, V) each, whose sampling `is_plain`, in a few passes over as many as the cache holds.

    None for a row that needs a closer look by `choose`: not finite, or allowed nothing that is likely at all.
    """
    if all(ask.sampling.temperature == 0 and ask.mask is None and ask.sampling.logprobs is None for ask in asks):
        return [_greediest(row_1V[0]) for row_1V in rows_1V]
    step = max(1, TOGETHER // rows_1V[0].shape[1])
    parts = [slice(first, first + step) for first in range(0, len(asks), step)]
    return [choice for part in parts for choice in _choose_block(np.concatenate(rows_1V[part]), asks[part])]


def _greediest(logits_V: NDArray[np.float32]) -> Choice | None:
    token = int(logits_V.argmax())  # a NaN counts as the largest
    return Choice(token, None, ()) if isfinite(logits_V[token]) else None


def _choose_block(logits_NV: NDArray[np.float32], asks: Sequence[Ask]) -> list[Choice | None]:
    """Of the logits, forbidden ones are overwritten. Weights are relative to the largest allowed one, as `choose` has
    them: relative to a forbidden one they might be too small to tell apart."""
    top_N, vocab = logits_NV.max(axis=1), logits_NV.shape[1]
    heats = np.array([ask.sampling.temperature or 1.0 for ask in asks])
    wanted, last_N = any(ask.sampling.logprobs is not None for ask in asks), np.zeros(len(asks))
    own_NV = _weights(logits_NV, 1.0) if wanted else None
    size_N = last_N if own_NV is None else _log_sum(own_NV)
    _forbid(logits_NV, asks)
    same = (heats == 1).all() and all(ask.mask is None for ask in asks)
    weights_NV = own_NV if own_NV is not None and same else _weights(logits_NV, heats)
    tokens, total_N = _drawn(weights_NV, np.array([ask.number for ask in asks]))
    for i, ask in enumerate(asks):
        if ask.sampling.temperature == 0:
            tokens[i] = int(np.argmax(logits_NV[i]))
    fine_N = np.isfinite(top_N) & (total_N > 0)
    if wanted:
        last_N = logits_NV[np.arange(len(asks)), np.minimum(tokens, vocab - 1)].astype(np.float64) - top_N - size_N
    return [
        Choice(token, None if ask.sampling.logprobs is None else logprob, ()) if fine and token < vocab else None
        for ask, token, logprob, fine in zip(asks, tokens, last_N.tolist(), fine_N.tolist(), strict=True)
    ]


def _drawn(weights_NV: NDArray[np.float32], numbers_N: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """The first token of each row at which the weights so far exceed the row's number times their total; the totals.

    V where rounding lets none exceed it. Sums are of fp64; in long rows those of whole strips come first, of fp32.
    """
    rows, vocab = weights_NV.shape
    if vocab <= 2 * STRIP:
        sums_NV = np.cumsum(weights_NV, axis=1, dtype=np.float64)
        aim_N = numbers_N * sums_NV[:, -1]
        return np.count_nonzero(sums_NV <= aim_N[:, None], axis=1).tolist(), sums_NV[:, -1]
    whole = vocab // STRIP * STRIP
    strips = np.empty((rows, whole // STRIP + 1))
    strips[:, :-1] = weights_NV[:, :whole].reshape(rows, -1, STRIP).sum(axis=2)
    strips[:, -1] = weights_NV[:, whole:].sum(axis=1)
    sums, tokens = np.cumsum(strips, axis=1), list[int]()
    for weights_V, sums_S, aim in zip(weights_NV, sums, numbers_N * sums[:, -1], strict=True):
        strip = int(np.searchsorted(sums_S, aim, side="right"))
        if strip == len(sums_S):
            tokens.append(vocab)
            continue
        here = weights_V[strip * STRIP : strip * STRIP + STRIP]
        rest = aim - (sums_S[strip - 1] if strip else 0)
        place = int(np.searchsorted(np.cumsum(here, dtype=np.float64), rest, side="right"))
        tokens.append(strip * STRIP + min(place, int(np.flatnonzero(here)[-1])))
    return tokens, sums[:, -1]


def _forbid(logits_NV: NDArray[np.float32], asks: Sequence[Ask]) -> None:
    """No weight at all where a mask says so; masks are often one array for many rows."""
    barred = dict[int, NDArray[np.bool_]]()
    for i, ask in enumerate(asks):
        if ask.mask is not None:
            if id(ask.mask) not in barred:
                barred[id(ask.mask)] = ~unpacked(ask.mask, logits_NV.shape[1])
            logits_NV[i, barred[id(ask.mask)]] = -np.inf


def adjusted(logits_V: NDArray[np.float32], sampling: Sampling, *, history: History,
             mask: NDArray[np.int32] | None) -> NDArray[np.float32]:  # fmt: skip
    """Bias, penalties and mask, in this order; a copy where anything changes. The mask always leaves something."""
    s = sampling
    penalised = s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty
    if not (penalised or s.logit_bias or mask is not None):
        return logits_V
    new_V = np.array(logits_V)
    for id, value in s.logit_bias.items():
        new_V[id] += value
    if s.repetition_penalty != 1:
        ids = np.fromiter(history.seen | history.reply.keys(), dtype=np.int64)
        ids = ids[ids < len(new_V)]
        new_V[ids] = np.where(new_V[ids] > 0, new_V[ids] / s.repetition_penalty, new_V[ids] * s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and history.reply:
        ids = np.fromiter(history.reply.keys(), dtype=np.int64)
        counts = np.fromiter(history.reply.values(), dtype=np.float32)
        new_V[ids] -= s.presence_penalty + s.frequency_penalty * counts
    if mask is not None:
        new_V[~unpacked(mask, len(new_V))] = -np.inf
        if np.isneginf(new_V.max()):  # what is allowed is impossible for the model: allowed counts
            new_V = np.where(unpacked(mask, len(new_V)), np.float32(0), np.float32(-np.inf))
    return new_V


def unpacked(mask: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Bits -> booleans (V,)."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:size].view(np.bool_)


def logprobs_of(logits_V: NDArray[np.float32], token: int, *,
                likeliest: int) -> tuple[float, tuple[tuple[int, float], ...]]:  # fmt: skip
    """Log-probability of a token in nats; ids and those of the likeliest so many, likeliest first.

    Raises RequestError where the logits are not finite.
    """
    ids = largest(logits_V, likeliest)
    size = float(_log_sum(_weights(logits_V[None], 1.0))[0])
    values = (logits_V[[token, *ids]].astype(np.float64) - logits_V.max() - size).tolist()
    if isnan(values[0]):
        raise RequestError(NOT_FINITE)
    return values[0], tuple(zip(ids.tolist(), values[1:], strict=True))


def _log_sum(weights_NV: NDArray[np.float32]) -> NDArray[np.float64]:
    sums_N: NDArray[np.float64] = np.log(weights_NV.sum(axis=1, dtype=np.float64))
    return sums_N


def largest(values_V: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest values, in falling order, smaller ids first among equals."""
    size = len(values_V)
    if count < 1:
        return np.empty(0, dtype=np.int64)
    if count >= size:
        return np.argsort(-values_V, kind="stable")
    few = count <= size // BLOCK // 8  # or their blocks would hold a good part of all
    ids = _likely(values_V, count) if few else np.arange(size)
    some = values_V[ids]
    ids = ids[some >= np.partition(some, len(some) - count)[len(some) - count]]
    return ids[np.argsort(-values_V[ids], kind="stable")[:count]]


def _likely(values_V: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Ids, rising, among which the `count` largest are. Numbers of a block lie a row apart: maxima of rows are fast."""
    wide = len(values_V) // BLOCK
    maxima_B = values_V[: wide * BLOCK].reshape(BLOCK, wide).max(axis=0)
    blocks = np.flatnonzero(maxima_B >= np.partition(maxima_B, wide - count)[wide - count])
    ids = (np.arange(BLOCK)[:, None] * wide + blocks).reshape(-1)
    return np.concatenate([ids, np.arange(wide * BLOCK, len(values_V))])


def _sample(logits_V: NDArray[np.float32], s: Sampling, *, number: float) -> int:
    ids, weights, total = _candidates(logits_V, s)
    if s.top_p < 1:  # the smallest set that reaches top_p, the candidate that crosses it included
        kept = int(np.searchsorted(np.cumsum(weights, dtype=np.float64), s.top_p * total)) + 1
        ids, weights = ids[:kept], weights[:kept]
    if s.min_p:
        weights = np.where(weights >= s.min_p * weights.max(), weights, 0)
    (place,), _ = _drawn(weights[None], np.array([number]))
    return int(ids[place if place < len(weights) else np.flatnonzero(weights)[-1]])


def _candidates(logits_V: NDArray[np.float32],
                s: Sampling) -> tuple[NDArray[np.int64] | range, NDArray[np.float32], float]:  # fmt: skip
    """Ids, likeliest first where top_p asks, their weights, and what weights add up to before top_p."""
    if s.top_k:
        ids = largest(logits_V, s.top_k)
        weights = _weights(logits_V[ids][None], s.temperature)[0]
        return ids, weights, float(weights.sum())
    every = _weights(logits_V[None], s.temperature)[0]
    total = float(every.sum())
    if s.top_p == 1:
        return range(len(every)), every, total
    ids = largest(logits_V, LOOKS[0])
    for look in (*LOOKS[1:], len(logits_V)):
        if every[ids].sum() < s.top_p * total:
            ids = largest(logits_V, look)
    return ids, every[ids], total


def _weights(logits_NV: NDArray[np.float32], temperature: float | NDArray[np.float64]) -> NDArray[np.float32]:
    """exp((logits - the row's largest) / temperature); of one temperature, or of one for each row."""
    inverse = (1 / np.maximum(temperature, 1e-30)).astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # tiny temperatures; rows without a finite logit
        wide_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
        wide_NV *= inverse[..., None]
        return np.exp(wide_NV, out=wide_NV)


def uniform(draw: Sequence[int]) -> float:
    """The random number in [0, 1) of a seed, a reply and a position (Philox, Salmon et al. 2011)."""
    return uniforms(draw, count=1)[0]


def uniforms(draw: Sequence[int], *, count: int) -> list[float]:
    """The random numbers of a position and of those after it."""
    seed, reply, position = draw
    philox = np.random.Philox(key=[seed % (1 << 64), reply], counter=[position, 0, 0, 0])
    numbers: list[float] = ((philox.random_raw(4 * count)[::4] >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers

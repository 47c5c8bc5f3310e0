"""Logits -> the next token.   Axes: V vocabulary, C candidates, B blocks of the vocabulary.

Pure: the same logits, settings, history and (seed, reply, position) give the same token, whatever else is running.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling

BLOCK = 64  # of the vocabulary: its k largest values lie in the k blocks with the largest maxima
LOOKS = (64, 1024)  # candidates that top_p tries before it sorts them all
TOGETHER = 1 << 16  # numbers of the rows that are looked at together: they stay in the cache
AHEAD = 64  # random numbers that are drawn at once


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
           draw: tuple[int, int, int]) -> Choice:  # fmt: skip
    """The next token.

    mask   bits of the tokens that may come (bit i%32 of word i//32); None: all may
    draw   seed, number of the reply, position in it: names the random number used
    At equal logits the smaller id comes first. Raises RequestError where the model gives no finite logit.
    Sources: top-k, arXiv:1805.04833; top-p, arXiv:1904.09751; min-p, arXiv:2407.01082.
    """
    changed_V = adjusted(logits_V, sampling, history=history, mask=mask)
    likely = int(np.argmax(changed_V))
    if not np.isfinite(changed_V[likely]):  # a NaN counts as the largest
        raise RequestError("the model's numbers are not finite: its weights are damaged, or overflow in this type.")
    token = likely if sampling.temperature == 0 else _sample(changed_V, sampling, draw=draw)
    if sampling.logprobs is None:
        return Choice(token, None, ())
    logprobs_V = to_logprobs(logits_V)
    return Choice(token, float(logprobs_V[token]), likeliest(logprobs_V, sampling.logprobs))


def is_plain(sampling: Sampling) -> bool:
    """Whether `choose_many` can: all candidates, nothing that changes logits, and no others' log-probabilities."""
    s = sampling
    penalised = s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty or s.logit_bias
    return not (penalised or s.top_k or s.top_p < 1 or s.min_p or s.logprobs)


def choose_many(rows_1V: Sequence[NDArray[np.float32]], asks: Sequence[Ask]) -> list[Choice | None]:
    """As `choose` for rows, (1, V) each, whose sampling `is_plain`, in a few passes over as many as the cache holds.

    None for a row that needs a closer look by `choose`: not finite, or allowed nothing that is likely at all.
    """
    step = max(1, TOGETHER // rows_1V[0].shape[1]) if asks else 1
    parts = [slice(first, first + step) for first in range(0, len(asks), step)]
    return [choice for part in parts for choice in _choose_part(_joined(rows_1V[part]), asks[part])]


def _joined(rows_1V: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return rows_1V[0] if len(rows_1V) == 1 else np.concatenate(rows_1V)


def _choose_part(logits_NV: NDArray[np.float32], asks: Sequence[Ask]) -> list[Choice | None]:
    if any(ask.sampling.temperature or ask.mask is not None or ask.sampling.logprobs is not None for ask in asks):
        return _choose_block(logits_NV, asks)
    tokens = np.argmax(logits_NV, axis=1).tolist()  # a NaN counts as the largest
    return [
        Choice(token, None, ()) if np.isfinite(row[token]) else None
        for token, row in zip(tokens, logits_NV, strict=True)
    ]


def _choose_block(logits_NV: NDArray[np.float32], asks: Sequence[Ask]) -> list[Choice | None]:
    wide_NV = logits_NV.astype(np.float64)
    wide_NV -= wide_NV.max(axis=1, keepdims=True)
    weights_NV = np.exp(wide_NV)
    size_N = np.log(weights_NV.sum(axis=1))
    heats = [ask.sampling.temperature for ask in asks]
    if any(heat not in (0, 1) for heat in heats):
        with np.errstate(over="ignore"):
            weights_NV = np.exp(wide_NV / np.array([heat or 1.0 for heat in heats])[:, None])
    _forbid(weights_NV, asks)
    sums_NV = np.cumsum(weights_NV, axis=1)
    aim_N = np.array([ask.number for ask in asks]) * sums_NV[:, -1]
    tokens = np.count_nonzero(sums_NV <= aim_N[:, None], axis=1).tolist()
    for i, heat in enumerate(heats):
        if heat == 0:
            tokens[i] = int(np.argmax(weights_NV[i]))
    fine_N = np.isfinite(size_N) & (sums_NV[:, -1] > 0)
    vocab = wide_NV.shape[1]
    last_N = wide_NV[np.arange(len(asks)), np.minimum(tokens, vocab - 1)] - size_N
    return [
        Choice(token, None if ask.sampling.logprobs is None else logprob, ()) if fine and token < vocab else None
        for ask, token, logprob, fine in zip(asks, tokens, last_N.tolist(), fine_N.tolist(), strict=True)
    ]


def _forbid(weights_NV: NDArray[np.float64], asks: Sequence[Ask]) -> None:
    """Weight 0 where a mask says so; masks are often one array for many rows."""
    barred = dict[int, NDArray[np.bool_]]()
    for i, ask in enumerate(asks):
        if ask.mask is not None:
            if id(ask.mask) not in barred:
                barred[id(ask.mask)] = ~unpacked(ask.mask, weights_NV.shape[1])
            weights_NV[i, barred[id(ask.mask)]] = 0


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


def to_logprobs(logits_V: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities in nats."""
    wide_V = logits_V.astype(np.float64)
    top = wide_V.max()
    return wide_V - (top + np.log(np.exp(wide_V - top).sum()))


def likeliest(values_V: NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` largest with their ids, largest first."""
    ids = largest(values_V, count)
    return tuple((int(id), float(values_V[id])) for id in ids)


def largest(values_V: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest values, in falling order, smaller ids first among equals."""
    size = len(values_V)
    if count < 1:
        return np.empty(0, dtype=np.int64)
    if count >= size:
        return np.argsort(-values_V, kind="stable")
    if count > size // BLOCK // 8:  # so many blocks would hold a good part of all
        ids = np.flatnonzero(values_V >= np.partition(values_V, size - count)[size - count])
        return ids[np.argsort(-values_V[ids], kind="stable")[:count]]
    even = size // BLOCK * BLOCK
    maxima_B = np.maximum.reduceat(values_V, np.arange(0, size, BLOCK)) if even < size else (
        values_V.reshape(-1, BLOCK).max(axis=1)
    )  # fmt: skip
    edge = np.partition(maxima_B, len(maxima_B) - count)[len(maxima_B) - count]
    blocks = np.flatnonzero(maxima_B >= edge)  # more than `count` only where maxima are equal
    ids = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    ids = ids[ids < size]
    return ids[np.argsort(-values_V[ids], kind="stable")[:count]]


def _sample(logits_V: NDArray[np.float32], s: Sampling, *, draw: tuple[int, int, int]) -> int:
    if s.top_k:
        ids = largest(logits_V, s.top_k)
        weights = _weights(logits_V[ids], s.temperature)
        total = weights.sum()
    elif s.top_p < 1:
        every = _weights(logits_V, s.temperature)
        total = every.sum()
        ids = largest(logits_V, LOOKS[0])
        for look in (*LOOKS[1:], len(logits_V)):
            if every[ids].sum() < s.top_p * total:
                ids = largest(logits_V, look)
        weights = every[ids]
    else:
        ids, weights = np.arange(len(logits_V)), _weights(logits_V, s.temperature)
        total = weights.sum()
    if s.top_p < 1:  # the smallest set that reaches top_p, the candidate that crosses it included
        kept = int(np.searchsorted(np.cumsum(weights), s.top_p * total)) + 1
        ids, weights = ids[:kept], weights[:kept]
    if s.min_p:
        weights = np.where(weights >= s.min_p * weights.max(), weights, 0)
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, uniform(draw) * sums[-1], side="right"))
    return int(ids[min(place, int(np.flatnonzero(weights)[-1]))])


def _weights(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature: what is less likely gets weight 0
        return np.exp((wide - wide.max()) / temperature)


def uniform(draw: Sequence[int]) -> float:
    """The random number in [0, 1) of a seed, a reply and a position (Philox, Salmon et al. 2011)."""
    return uniforms(draw, count=1)[0]


def uniforms(draw: Sequence[int], *, count: int) -> list[float]:
    """The random numbers of a position and of those after it."""
    seed, reply, position = draw
    philox = np.random.Philox(key=[seed % (1 << 64), reply], counter=[position, 0, 0, 0])
    numbers: list[float] = ((philox.random_raw(4 * count)[::4] >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers

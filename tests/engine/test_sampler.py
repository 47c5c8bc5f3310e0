"""Sampling equals its definition, written down plainly, and its frequencies are the distribution's."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling
from octavo.engine.rules import allow, forbid
from octavo.engine.sampler import (
    Ask,
    Draws,
    History,
    adjusted,
    choose,
    choose_many,
    largest,
    logprobs_of,
    uniform,
)

DRAWS = 20_000


def defined(logits: list[float], s: Sampling) -> dict[int, float]:
    """Probabilities of the tokens that may come: sorted, cut, normalised, one step after the other."""
    scaled = [x / s.temperature for x in logits]
    top = max(scaled)
    weights = {i: math.exp(x - top) for i, x in enumerate(scaled)}
    order = sorted(weights, key=lambda i: (-weights[i], i))
    if s.top_k:
        order = order[: s.top_k]
    total, kept, mass = sum(weights[i] for i in order), list[int](), 0.0
    for i in order:
        kept.append(i)
        mass += weights[i] / total
        if mass >= s.top_p:
            break
    kept = [i for i in kept if weights[i] >= s.min_p * weights[order[0]]]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


@pytest.mark.parametrize("settings", [
    Sampling(temperature=1.0), Sampling(temperature=0.6, top_k=20, top_p=0.95), Sampling(temperature=0.7, top_p=0.8),
    Sampling(temperature=1.5, top_k=3), Sampling(temperature=2.0, min_p=0.2), Sampling(temperature=1.0, top_p=0.0),
    Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.05),
])  # fmt: skip
@pytest.mark.parametrize("size", [9, 700, 3001])
def test_frequencies_are_the_defined_probabilities(settings: Sampling, size: int):
    logits_V = np.random.default_rng(size).normal(0, 2, size).astype(np.float32)
    wanted = defined(logits_V.tolist(), settings)
    draws = {9: DRAWS, 700: DRAWS // 4, 3001: DRAWS // 8}[size]
    found = Counter(draw(logits_V, settings, position=i) for i in range(draws))
    assert set(found) <= set(wanted)
    spread = [(found[i] - draws * p) / math.sqrt(draws * p * (1 - p) + 1) for i, p in wanted.items() if draws * p > 5]
    assert max(map(abs, spread), default=0) < 5  # standard deviations


def draw(logits_V, settings: Sampling, *, position: int = 0, seed: int = 7, history: History | None = None, mask=None):
    number = uniform((seed, 0, position))
    return choose(logits_V, settings, history=history or History([]), mask=mask, number=number).token


def test_random_numbers_are_even_and_differ_by_seed_reply_and_position():
    numbers = np.array([uniform((s, r, p)) for s in range(10) for r in range(10) for p in range(100)])
    assert len(set(numbers.tolist())) == len(numbers)
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.abs(counts - 500).max() < 5 * math.sqrt(500)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=400), st.integers(0, 450))
def test_the_largest_are_those_of_a_stable_sort(values: list[float], count: int):
    values_V = np.array(values * 3, dtype=np.float32)
    assert largest(values_V, count).tolist() == np.argsort(-values_V, kind="stable")[:count].tolist()


@pytest.mark.parametrize("size", [151_936, 151_925])
def test_the_largest_of_a_whole_vocabulary(size: int):
    values_V = np.random.default_rng(0).normal(size=size).astype(np.float32)
    values_V[[5, 77, 99_999, size - 1]] = 50
    for count in (1, 2, 20, 1000):
        assert largest(values_V, count).tolist() == np.argsort(-values_V, kind="stable")[:count].tolist()


@given(st.lists(st.integers(0, 19), max_size=8), st.lists(st.integers(0, 19), max_size=8), st.integers(0, 99))
def test_penalties_and_bias_follow_their_definitions(prompt: list[int], reply: list[int], seed: int):
    logits_V = np.random.default_rng(seed).normal(0, 3, 20).astype(np.float32)
    history = History(prompt)
    for token in reply:
        history.add(token)
    s = Sampling(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, logit_bias={3: 1.5})
    found = adjusted(logits_V, s, history=history, mask=None)
    for i, value in enumerate(logits_V.tolist()):
        value += 1.5 if i == 3 else 0
        if i in prompt or i in reply:
            value = value / 1.3 if value > 0 else value * 1.3
        value -= (0.4 if i in reply else 0) + 0.2 * reply.count(i)
        assert found[i] == pytest.approx(value, abs=1e-5)


@given(st.sets(st.integers(0, 99), min_size=1, max_size=10), st.floats(0, 2), st.integers(0, 1000))
def test_only_allowed_tokens_come(allowed: set[int], temperature: float, seed: int):
    mask = np.zeros(4, dtype=np.int32)
    for id in allowed | {1}:
        allow(mask, id)
    if 1 not in allowed:
        forbid(mask, 1)
    logits_V = np.random.default_rng(seed).normal(0, 3, 100).astype(np.float32)
    logits_V[list(allowed)[:1]] = -np.inf
    assert draw(logits_V, Sampling(temperature=temperature), mask=mask, seed=seed) in allowed


def test_logprobs_are_the_models_own():
    logits_V = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    s = Sampling(temperature=0.3, top_k=2, logprobs=5, logit_bias={7: 100.0})
    found = choose(logits_V, s, history=History([]), mask=None, number=0.5)
    wanted = logits_V.astype(np.float64) - np.log(np.exp(logits_V.astype(np.float64)).sum())
    assert found.token == 7 and found.logprob == pytest.approx(wanted[7])
    assert [id for id, _ in found.top] == np.argsort(-wanted)[:5].tolist()
    _, every = logprobs_of(logits_V, 0, likeliest=1000)
    assert [value for _, value in every] == pytest.approx(sorted(wanted, reverse=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_numbers_are_an_error_and_no_token(value: float):
    logits_V = np.zeros(10, dtype=np.float32)
    logits_V[3] = value
    with pytest.raises(RequestError, match="not finite"):
        draw(logits_V, Sampling(temperature=1.0))


PLAIN = [
    Sampling(), Sampling(temperature=0.7), Sampling(temperature=0), Sampling(logprobs=0), Sampling(temperature=1e-6),
    Sampling(temperature=2.5, logprobs=0), Sampling(temperature=0, logprobs=0),
]  # fmt: skip


@given(seed=st.integers(0, 1 << 40), size=st.integers(2, 300) | st.integers(1025, 2100), rows=st.integers(1, 30),
       data=st.data())  # fmt: skip
def test_rows_sampled_together_are_each_sampled_as_if_alone(seed: int, size: int, rows: int, data: st.DataObject):
    rng = np.random.default_rng(seed)
    logits_NV = rng.normal(0, 3, (rows, size)).astype(np.float32)
    settings = [data.draw(st.sampled_from(PLAIN)) for _ in range(rows)]
    mask = np.full((size + 31) // 32, -1, dtype=np.int32)
    forbid(mask, int(rng.integers(size)))
    masks = [mask if rng.random() < 0.5 else None for _ in range(rows)]
    asks = [Ask(s, uniform((seed, i, 5)), m) for i, (s, m) in enumerate(zip(settings, masks, strict=True))]
    for i, found in enumerate(choose_many([row[None] for row in logits_NV], asks)):
        wanted = choose(logits_NV[i], settings[i], history=History([]), mask=masks[i], number=uniform((seed, i, 5)))
        assert found is not None and found.token == wanted.token
        assert found.logprob == (None if wanted.logprob is None else pytest.approx(wanted.logprob, abs=1e-12))


@pytest.mark.parametrize("temperature", [0, 0.01, 0.1, 1])
@pytest.mark.parametrize("size", [40, 2000])
def test_what_is_forbidden_weighs_nothing_however_likely_it_is(size: int, temperature: float):
    """Tokens are those that `choose` takes for the same random numbers, though all that is allowed is unlikely."""
    logits_V = np.full(size, -30, dtype=np.float32)
    logits_V[[3, 7, 9]] = 0, -10.2, -10.38
    mask = np.full((size + 31) // 32, -1, dtype=np.int32)
    forbid(mask, 3)
    settings, numbers = Sampling(temperature=temperature), np.linspace(0, 1, 400, endpoint=False).tolist()
    found = choose_many([logits_V[None]] * 400, [Ask(settings, number, mask) for number in numbers])
    wanted = [choose(logits_V, settings, history=History([]), mask=mask, number=number) for number in numbers]
    assert found == wanted


def test_rows_that_are_not_finite_are_left_for_a_closer_look():
    logits_NV = np.zeros((3, 9), dtype=np.float32)
    logits_NV[0, 3], logits_NV[1] = np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        found = choose_many([row[None] for row in logits_NV], [Ask(Sampling(), 0.5, None)] * 3)
    assert [choice is None for choice in found] == [True, True, False]


def test_numbers_drawn_ahead_are_those_of_their_positions():
    draws = Draws(seed=3, reply=1)
    for position in [0, 1, 63, 64, 200, 5, 6]:
        assert draws.at(position) == uniform((3, 1, position))

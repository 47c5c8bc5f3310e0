"""Quantised weights: what the integers mean, that a search never loses, and that products are exact."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.nn import quant
from octavo.nn.packed import rotated, rotation_of
from octavo.nn.quant import Floats, Int4Weight, Int8Weight, Weight
from octavo.nn.quantised import QuantisedLinear, round_rows

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 100))
ROUND: list[Callable[[Floats], Weight]] = [quant.round_w8, quant.quantise_w8, quant.round_w4, quant.quantise_w4]


def numbers(shape: tuple[int, ...], seed: int, *, loud: float = 1.0) -> Floats:
    """Normal numbers whose rows and columns differ in size by some powers of e."""
    chance = np.random.default_rng(seed)
    sizes = [np.exp(loud * chance.standard_normal(n)) for n in shape]
    return (chance.standard_normal(shape) * sizes[0][:, None] * sizes[1]).astype(np.float32)


def error(weight: Weight, wanted: Floats, importance: Floats | float = 1.0) -> float:
    return float((((weight.dense().astype(np.float64) - wanted) ** 2) * importance).sum())


@pytest.mark.parametrize("function", ROUND)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_the_integers_stay_in_their_ranges_and_give_the_dense_weight(
    function: Callable[[Floats], Weight], shape: tuple[int, int], seed: int
):
    weight = function(numbers(shape, seed))
    q, low, top = weight.q_NK, *((-127, 127) if isinstance(weight, Int8Weight) else (-8, 7))
    assert q.dtype == np.int8 and q.shape == shape and q.min() >= low and q.max() <= top
    assert weight.integers().dtype == np.int8 and np.abs(weight.integers().astype(int)).max() <= 127
    if isinstance(weight, Int4Weight):
        assert weight.group_NG.shape == (shape[0], -(-shape[1] // 32))
        assert weight.group_NG.min() >= 1 and weight.group_NG.max() <= 15
        by_hand = [[int(q[n, k]) * int(weight.group_NG[n, k // 32]) for k in range(shape[1])] for n in range(shape[0])]
        assert (weight.integers() == by_hand).all()
    assert (weight.dense() == weight.integers() * weight.scale_N[:, None]).all() and (weight.scale_N >= 0).all()


@pytest.mark.parametrize("function", ROUND)
def test_what_is_on_the_grid_already_comes_back(function: Callable[[Floats], Weight]):
    chance = np.random.default_rng(0)
    group_NG, q_NK = chance.integers(1, 16, (6, 3)), chance.integers(-7, 8, (6, 96))
    group_NG[:, 0], q_NK[:, ::32] = 15, 7  # each group holds its largest level, each row its largest group
    dense = (q_NK * np.repeat(group_NG, 32, axis=1) * np.exp2(np.arange(-3, 3))[:, None]).astype(np.float32)
    if function in (quant.round_w8, quant.quantise_w8):
        dense[:, 0] = 127 * np.exp2(np.arange(-3, 3))
    np.testing.assert_allclose(function(dense).dense(), dense, rtol=1e-6)


@given(shape=SHAPES, seed=st.integers(0, 99), weighted=st.booleans())
def test_the_search_never_loses_against_rounding(shape: tuple[int, int], seed: int, weighted: bool):
    dense = numbers(shape, seed)
    importance = np.exp(np.random.default_rng(seed).standard_normal(shape[1])).astype(np.float32) if weighted else None
    by = 1.0 if importance is None else importance
    for plain, search in ((quant.round_w8, quant.quantise_w8), (quant.round_w4, quant.quantise_w4)):
        assert error(search(dense, importance_K=importance), dense, by) <= error(plain(dense), dense, by) * (1 + 1e-5)


def test_the_search_gains_and_so_does_knowing_what_matters():
    dense, importance = numbers((64, 256), 0, loud=0.3), np.exp(numbers((1, 256), 1, loud=0))[0]
    found = quant.quantise_w4(dense)
    assert error(found, dense) < 0.9 * error(quant.round_w4(dense), dense)
    knowing = quant.quantise_w4(dense, importance_K=importance)
    assert error(knowing, dense, importance) < error(found, dense, importance)


def test_rows_do_not_depend_on_their_neighbours_and_split_undoes_joined():
    dense = numbers((2048, 64), 0)  # several chunks
    for search in (quant.quantise_w8, quant.quantise_w4):
        whole = search(dense)
        parts = quant.split(whole, [1, 1000, 1047])
        again = quant.joined([search(dense[:1]), search(dense[1:1001]), search(dense[1001:])])
        for found in (quant.joined(parts), again):
            assert (found.integers() == whole.integers()).all() and (found.scale_N == whole.scale_N).all()


@pytest.mark.parametrize("function", ROUND)
def test_zeros_and_tiny_numbers_give_zeros_and_no_warning(function: Callable[[Floats], Weight]):
    dense = np.zeros((3, 40), np.float32)
    dense[1, 3], dense[2] = 1e-44, 1.0
    with np.errstate(all="raise", under="ignore"):
        weight = function(dense)
    assert np.abs(weight.dense()[:2]).max() <= 1e-37
    np.testing.assert_allclose(weight.dense()[2], dense[2], rtol=0.07)


@given(tokens=st.integers(1, 5), shape=SHAPES, seed=st.integers(0, 99))
def test_products_are_exact_sums_of_integers(tokens: int, shape: tuple[int, int], seed: int):
    x_TK = numbers((tokens, shape[1]), seed + 1)
    q_TK, scale_T = quant.quantise_rows(x_TK)
    assert q_TK.dtype == np.int8 and (np.abs(q_TK.astype(int)).max(axis=1) == 127).all()
    assert (np.abs(q_TK * scale_T[:, None] - x_TK) <= scale_T[:, None] * 0.5001).all()
    for function in (quant.round_w8, quant.quantise_w4):
        weight = function(numbers(shape, seed))
        exact_TN = q_TK.astype(np.float64) @ weight.integers().T.astype(np.float64)
        sum_TN = np.array([[sum(int(a) * int(b) for a, b in zip(x, w, strict=True)) for w in weight.integers()]
                           for x in q_TK])  # fmt: skip
        assert (sum_TN == exact_TN).all() and np.abs(sum_TN).max(initial=0) < 2**31
        wanted_TN = sum_TN.astype(np.float32) * scale_T[:, None] * weight.scale_N
        assert (quant.matmul_reference(x_TK, weight) == wanted_TN).all()
        logical_NK = weight.integers() * weight.scale_N[:, None].astype(np.float64)
        logical_TN = (q_TK * scale_T[:, None].astype(np.float64)) @ logical_NK.T
        np.testing.assert_allclose(wanted_TN, logical_TN, rtol=1e-5, atol=1e-5 * np.abs(logical_TN).max())


def test_activations_round_half_to_even_and_silent_rows_are_zero():
    x_TK = np.array([[127, 0.5, 1.5, -2.5], [0, 0, 0, 0], [1e-35, 0, 0, 0]], np.float32)
    q_TK, scale_T = quant.quantise_rows(x_TK)
    assert q_TK.tolist() == [[127, 0, 2, -2], [0] * 4, [0] * 4] and scale_T.tolist() == [1, 0, 0]


def test_the_torch_linear_computes_the_reference():
    x_TK, weight = numbers((5, 96), 2), quant.quantise_w4(numbers((7, 96), 3))
    q_TK, scale_T = round_rows(torch.from_numpy(x_TK))
    turned_TK = rotated(x_TK, rotation_of(96))
    wanted_TK, wanted_T = quant.quantise_rows(turned_TK)
    assert (q_TK.numpy() == wanted_TK).all() and (scale_T.numpy() == wanted_T).all()
    found_TN = QuantisedLinear(weight, torch.ones(7))(torch.from_numpy(x_TK)).numpy()
    np.testing.assert_allclose(found_TN, quant.matmul_reference(turned_TK, weight) + 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inputs", [16, 40, 96, 576, 1536])
def test_a_quantised_linear_is_near_the_plain_one_even_with_a_loud_input(inputs: int):
    """Rotated inputs meet rotated weights; one loud channel would cost unrotated tokens most of their bits."""
    x_TK, weight_NK = numbers((5, inputs), 4, loud=0), numbers((7, inputs), 5, loud=0)
    x_TK[:, 3] *= 100
    rotation = rotation_of(inputs)
    found_TN = QuantisedLinear(quant.round_w8(rotated(weight_NK, rotation)), None)(torch.from_numpy(x_TK)).numpy()
    wanted_TN = x_TK.astype(np.float64) @ weight_NK.T
    error = np.abs(found_TN - wanted_TN).max() / np.abs(wanted_TN).max()
    assert error < 0.02, error
    np.testing.assert_allclose(rotated(rotated(weight_NK, rotation), rotation), weight_NK, atol=1e-5)

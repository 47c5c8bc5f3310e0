"""The packer: nothing lost, nothing made up, nothing across a border."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import SampleError
from octavo.core.sample import sample
from octavo.train.batch import filled, pack
from tests.train.models import document

lengths_and_seeds = st.lists(st.tuples(st.integers(2, 9), st.integers(0, 99)), min_size=1, max_size=8)


@given(drawn=lengths_and_seeds)
def test_every_target_is_predicted_by_the_token_before_it_in_its_own_document(drawn: list[tuple[int, int]]):
    samples = [document(length, seed=seed, trained=0.5) for length, seed in drawn]
    batch = pack(samples)
    starts = np.cumsum([0, *batch.lengths])
    told = zip(batch.rows_N.tolist(), batch.targets_N.tolist(), batch.weights_N.tolist(), batch.samples_N.tolist(),
               strict=True)  # fmt: skip
    found = [(which, row + 1 - int(starts[which]), target, weight) for row, target, weight, which in told]
    wanted = [
        (which, place, int(one.tokens[place]), float(one.weights[place]))
        for which, one in enumerate(samples)
        for place in range(1, len(one))
        if one.weights[place]
    ]
    assert found == wanted
    assert batch.tokens_T.tolist() == [token for one in samples for token in one.tokens]


@given(drawn=lengths_and_seeds, tokens=st.integers(9, 30))
def test_groups_are_full_but_never_too_full_and_keep_the_order(drawn: list[tuple[int, int]], tokens: int):
    samples = [document(length, seed=seed) for length, seed in drawn]
    groups = list(filled(samples, tokens=tokens))
    assert [one for group in groups for one in group] == samples
    sizes = [sum(map(len, group)) for group in groups]
    assert max(sizes) <= tokens
    for size, following in zip(sizes, groups[1:], strict=False):
        assert size + len(following[0]) > tokens  # the next one would not have gone in


def test_a_document_that_is_too_long_is_refused_by_name():
    with pytest.raises(SampleError, match="document 7 has 12 tokens, a batch takes 9"):
        list(filled([document(3, seed=1), document(12, seed=7)], tokens=9))


def test_what_was_sampled_goes_with_its_target_and_unknown_stays_unknown():
    told = sample([1, 2, 3], [0, 1, 1], logprobs=[np.nan, -0.5, -0.25], advantages=[9, 2, 3])
    batch = pack([sample([4, 5], [1, 1]), told])
    assert batch.targets_N.tolist() == [5, 2, 3]
    torch.testing.assert_close(batch.logprobs_N, torch.tensor([np.nan, -0.5, -0.25]), equal_nan=True)
    assert batch.advantages_N.tolist() == [0, 2, 3] and batch.samples_N.tolist() == [0, 1, 1]


@pytest.mark.parametrize("weights", [[0.0, 0, 0], [1.0, 0, 0]])  # the first token has nothing before it
def test_a_sample_with_nothing_to_learn_is_refused(weights: list[float]):
    with pytest.raises(SampleError, match="there is nothing to learn in its 3 tokens"):
        sample([1, 2, 3], weights, name="x")


def test_no_sample_is_refused_and_lengths_must_agree():
    with pytest.raises(SampleError, match="no sample"):
        pack([])
    with pytest.raises(SampleError, match="3 tokens but 2 advantages"):
        sample([1, 2, 3], [0, 1, 1], advantages=[1, 2])

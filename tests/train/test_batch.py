"""The packer: nothing lost, nothing made up, nothing across a border."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import SampleError
from octavo.core.sample import sample
from octavo.nn.context import length_tokens, positions
from octavo.train.batch import filled, pack
from octavo.train.forks import LEAST_TRUNK
from tests.train.models import beginning, document, documents

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


groups_alike = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=4
)


@given(drawn=groups_alike, tokens=st.integers(50, 90))
def test_what_neighbours_begin_with_is_there_once(drawn: list[tuple[int, list[int]]], tokens: int):
    samples = [one for trunk, branches in drawn for one in beginning(trunk, branches)]
    for group in filled(samples, tokens=tokens, share=True):
        plain, shared = pack(group), pack(group, share=True)
        assert len(shared.tokens_T) == sum(map(length_tokens, shared.lengths)) <= tokens
        assert [one.tokens.tolist() for one in group] == [one.tolist() for one in documents(shared)]
        for name in "targets_N", "weights_N", "samples_N", "samples":
            assert bool(torch.as_tensor(getattr(plain, name) == getattr(shared, name)).all())
        before = [batch.tokens_T[batch.rows_N] for batch in (plain, shared)]
        places = [positions(batch.lengths)[batch.rows_N] for batch in (plain, shared)]
        assert torch.equal(*before) and torch.equal(*places)
    once = sum(length_tokens(length) for length in pack(samples, share=True).lengths)
    spared = sum(trunk * (len(branches) - 1) for trunk, branches in drawn if trunk >= LEAST_TRUNK)
    assert once <= sum(map(len, samples)) - spared


def test_what_is_learnt_is_never_shared():
    one, other = beginning(20, [3, 3])
    early = replace(other, weights=np.where(np.arange(23) == 9, 1, other.weights).astype(np.float32))
    assert pack([one, other], share=True).lengths == ((20, 3, 3),)
    assert pack([one, early], share=True).lengths == (23, 23)
    assert pack([one, other, early], share=True).lengths == ((20, 3, 3), 23)


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

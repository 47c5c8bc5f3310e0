"""The balancing loss: both ways of learning agree, and it is of the whole step, however that is cut."""

import pytest
import torch

from octavo.nn.moe import Routed
from octavo.train.balance import Balance
from octavo.train.batch import pack
from octavo.train.step import CrossEntropy, Learner
from tests.train.models import assert_same, document, gradients, small
from tests.train.test_shards import BATCH, Plain, learn


def test_written_out_equals_autograd():
    found, wanted = (learn(kind(small("moe"), CrossEntropy(), balance=Balance(3.0))) for kind in (Learner, Plain))
    without = learn(Learner(small("moe"), CrossEntropy()))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5) and found[0] > without[0] + 1
    assert_same(found[1], wanted[1], share=2e-5)
    router = "model.layers.0.mlp.gate.weight"
    assert (found[1][router] - without[1][router]).norm() > 0.01 * without[1][router].norm()


def test_even_use_gives_the_number_of_chosen_experts_and_one_sided_use_more():
    balance, tokens = Balance(1.0), 60
    even = {0: Routed(torch.full((6,), 20), torch.full((6,), 10.0))}
    assert float(balance.value(even, balance.shares(even, tokens), tokens)) == pytest.approx(2)
    balance.begin()
    lone = {0: Routed(torch.tensor([60, 60, 0, 0, 0, 0]), torch.tensor([30.0, 30, 0, 0, 0, 0]))}
    assert float(balance.value(lone, balance.shares(lone, tokens), tokens)) == pytest.approx(6)


def test_shares_are_of_the_whole_step():
    """Two micro-batches, and whatever came before `begin` is forgotten. Looking without learning counts nothing."""
    balance = Balance(1.0)
    first, second = pack([document(100, seed=1)]), pack([document(50, seed=2), document(30, seed=3)])
    learner = Learner(small("moe"), CrossEntropy(), balance=balance)
    learner(BATCH, 1.0)
    balance.begin()
    for batch in (first, second):
        learner(batch, 1.0)
    with torch.no_grad():
        learner(BATCH, 1.0)
    assert float(balance.tokens) == 180
    assert all(float(counts.sum()) == 360 for counts in balance.counts.values())
    gradients(learner.model)


def test_ranks_are_asked():
    balance = Balance(1.0, across=lambda x: x * 2)
    layers = {1: Routed(torch.tensor([3, 1]), torch.tensor([2.0, 2.0]))}
    assert balance.shares(layers, 4)[1].tolist() == [0.75, 0.25] and balance.tokens == 8

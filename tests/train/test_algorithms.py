"""Algorithms: a push and a pull are the derivatives of what their docstrings say, by autograd on plain logits."""

import math

import pytest
import torch
from torch import Tensor

from octavo.core.sample import sample
from octavo.nn.context import PackedContext
from octavo.nn.divergence import Teacher, weighted_divergence
from octavo.nn.head import tell
from octavo.train.algorithms import ClippedPolicy, Preference, TowardsTeacher
from octavo.train.batch import Batch, pack
from octavo.train.optimiser import Optimisation
from octavo.train.step import CrossEntropy, Learner
from octavo.train.trainer import Trainer
from tests.train.minis import VOCABULARY, batch, tiny


def sampled(seed: int = 0, *, spread: float = 0.3) -> Batch:
    """Replies with log-probabilities near those of tiny(), and an advantage each."""
    draw = torch.Generator().manual_seed(seed)
    model, plain = tiny(), batch(seed)
    with torch.no_grad():
        hidden_TD = model(plain.tokens_T, PackedContext(plain.lengths))[plain.rows_N]
        new_N = tell(hidden_TD, model.head_weight, plain.targets_N).logprobs_N
    found, at = [], 0
    for i, length in enumerate(plain.lengths):
        tokens = plain.tokens_T[at : at + length]
        weights, logprobs = torch.zeros(length), torch.full((length,), math.nan)
        mine = plain.samples_N == i
        places = plain.rows_N[mine] + 1 - at
        weights[places] = 1.0
        logprobs[places] = new_N[mine] + spread * torch.randn(len(places), generator=draw)
        advantage = [1.0, -0.5, 0.7, -1.2][i % 4]
        found.append(
            sample(tokens.tolist(), weights.tolist(), logprobs=logprobs.tolist(), advantages=[advantage] * length)
        )
        at += length
    return pack(found)


def gradients(algorithm, one: Batch, *, plain: bool, teacher=None) -> tuple[float, dict[str, Tensor]]:
    learner = Learner(tiny(), algorithm, teacher=teacher)
    scale = float(one.weights_N.sum())
    if plain:
        type(learner).plain, kept = property(lambda self: "a test"), type(learner).plain
        try:
            loss, terms = learner(one, scale)
        finally:
            type(learner).plain = kept
    else:
        assert learner.plain is None
        loss, terms = learner(one, scale)
    loss.backward()
    shown = loss if terms.loss is None else terms.loss
    return float(shown.detach()), {name: p.grad for name, p in learner.model.named_parameters()}


def by_autograd(objective, one: Batch) -> tuple[float, dict[str, Tensor]]:
    model = tiny()
    logits_NV = model.logits(model(one.tokens_T, PackedContext(one.lengths))[one.rows_N])
    loss = objective(logits_NV.log_softmax(-1))
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters()}


def targets(rows_NV: Tensor, one: Batch) -> Tensor:
    return rows_NV.gather(1, one.targets_N[:, None]).squeeze(1)


def by_sample(values_N: Tensor, one: Batch) -> list[Tensor]:
    return [values_N[one.samples_N == i] for i in range(len(one.lengths))]


def clipped(rows_NV: Tensor, one: Batch, low: float, high: float) -> Tensor:
    ratio_N = (targets(rows_NV, one) - one.logprobs_N).exp()
    gain_N = torch.minimum(ratio_N * one.advantages_N, ratio_N.clamp(1 - low, 1 + high) * one.advantages_N)
    return -gain_N.mean()


def gspo(rows_NV: Tensor, one: Batch, low: float, high: float) -> Tensor:
    away = [x.mean().exp().expand(len(x)) for x in by_sample(targets(rows_NV, one) - one.logprobs_N, one)]
    ratio_N = torch.cat(away)
    gain_N = torch.minimum(ratio_N * one.advantages_N, ratio_N.clamp(1 - low, 1 + high) * one.advantages_N)
    return -gain_N.mean()


def drifting(rows_NV: Tensor, one: Batch) -> Tensor:
    apart_N = one.logprobs_N - targets(rows_NV, one)
    return clipped(rows_NV, one, 0.2, 0.28) + 0.1 * (apart_N.exp() - 1 - apart_N).mean()


def dpo(rows_NV: Tensor, one: Batch) -> Tensor:
    sums = torch.stack([x.sum() for x in by_sample(targets(rows_NV, one) - one.logprobs_N, one)])
    return -torch.nn.functional.logsigmoid(0.1 * (sums[0::2] - sums[1::2])).mean()


CASES = {
    "grpo": (ClippedPolicy(high=0.2), lambda rows, one: clipped(rows, one, 0.2, 0.2)),
    "dapo": (ClippedPolicy(), lambda rows, one: clipped(rows, one, 0.2, 0.28)),
    "gspo": (ClippedPolicy(by_reply=True, low=0.03, high=0.04), lambda rows, one: gspo(rows, one, 0.03, 0.04)),
    "drift": (ClippedPolicy(drift=0.1), drifting),
    "dpo": (Preference(beta=0.1, pairs=2), dpo),
    "cross entropy": (CrossEntropy(), lambda rows, one: -targets(rows, one).mean()),
}


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_objective(name, plain):
    algorithm, objective = CASES[name]
    for seed in range(3):
        one = sampled(seed)
        loss, found = gradients(algorithm, one, plain=plain)
        wanted_loss, wanted = by_autograd(lambda rows, one=one: objective(rows, one), one)
        assert loss == pytest.approx(wanted_loss, abs=2e-5)
        for name_, grad in wanted.items():
            torch.testing.assert_close(found[name_], grad, atol=1e-5, rtol=1e-3)


def test_some_tokens_are_clipped_and_some_are_not():
    learner = Learner(tiny(), ClippedPolicy(low=0.1, high=0.1))
    one = sampled()
    _, terms = learner(one, float(one.weights_N.sum()))
    clipped_, count = terms.figures["clipped"]
    assert 0.1 * count < clipped_ < 0.9 * count and bool((terms.push_N == 0).any())


def test_the_ratio_is_one_before_the_first_step_and_the_gap_is_nothing():
    one = sampled(spread=0.0)
    _, terms = Learner(tiny(), ClippedPolicy())(one, 1.0)
    for name, wanted in (("ratio", 1.0), ("gap", 0.0), ("clipped", 0.0)):
        value, count = terms.figures[name]
        assert value / count == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("reverse", [True, False])
def test_divergence_equals_that_of_whole_rows(reverse):
    torch.manual_seed(1)
    hidden, head = torch.randn(50, 16, requires_grad=True), torch.randn(VOCABULARY, 16, requires_grad=True)
    teacher, weights = Teacher(torch.randn(50, 24), torch.randn(VOCABULARY, 24)), torch.rand(50)
    value = weighted_divergence(hidden, head, teacher, weights, reverse=reverse)
    found = torch.autograd.grad(value, (hidden, head))
    ours = (hidden @ head.T).log_softmax(-1)
    theirs = (teacher.hidden_NE @ teacher.head_VE.T).log_softmax(-1)
    p, q = (ours, theirs) if reverse else (theirs, ours)
    wanted = (weights * (p.exp() * (p - q)).sum(-1)).sum()
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-4)
    for a, b in zip(found, torch.autograd.grad(wanted, (hidden, head)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("reverse", [True, False])
def test_both_ways_of_computing_pull_alike(reverse: bool, biased: bool):
    """Also towards a teacher that the passes which are written out cannot follow."""
    one, teacher, towards = batch(0), tiny(seed=5), TowardsTeacher(reverse=reverse)
    if biased:
        teacher = tiny(seed=5, model_type="qwen2")
        for name, parameter in teacher.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    a, plainly = gradients(towards, one, plain=True, teacher=teacher)
    b, written_out = gradients(towards, one, plain=False, teacher=teacher)
    other, _ = gradients(TowardsTeacher(reverse=not reverse), one, plain=False, teacher=teacher)
    assert a == pytest.approx(b, abs=1e-5) and a > 0 and abs(a - other) > 1e-4
    for name, grad in plainly.items():
        torch.testing.assert_close(written_out[name], grad, atol=1e-5, rtol=1e-3)


def test_distillation_comes_near_the_teacher_and_leaves_it_as_it_was():
    teacher, student = tiny(seed=5), tiny()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3.0)
    before = [p.clone() for p in teacher.parameters()]
    trainer = Trainer(student, TowardsTeacher(), Optimisation(method="muon", rate=1e-2), bf16=False, teacher=teacher)
    losses = [trainer.learn([batch(i % 4)]).loss for i in range(80)]
    assert losses[-1] < 0.5 * losses[0] and min(losses) >= 0
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_an_advantage_moves_a_reply_the_way_it_points():
    one = sampled(spread=0.0)
    trainer = Trainer(tiny(), ClippedPolicy(), Optimisation(rate=1e-3), bf16=False)
    before = [float(x.sum()) for x in by_sample(one.logprobs_N, one)]
    trainer.learn([one])
    hidden = trainer.model(one.tokens_T, PackedContext(one.lengths))[one.rows_N]
    after = [float(x.sum()) for x in by_sample(tell(hidden, trainer.model.head_weight, one.targets_N).logprobs_N, one)]
    gain = sum((b - a) * advantage for a, b, advantage in zip(before, after, [1.0, -0.5, 0.7, -1.2], strict=True))
    assert gain > 0

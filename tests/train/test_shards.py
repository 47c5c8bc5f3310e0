"""The passes that are written out learn what autograd learns: any precision, any threads, with less memory or more."""

import pytest
import torch
from torch import Tensor

from octavo.nn.head import Told
from octavo.train import shards
from octavo.train.algorithms import TowardsTeacher
from octavo.train.batch import Batch, pack
from octavo.train.shards import cut
from octavo.train.step import Algorithm, CrossEntropy, Learner, Terms
from tests.train.models import SHAPES, assert_same, document, gradients, small

BATCH = pack([document(length, seed=length, trained=0.7) for length in (300, 2, 170, 64, 33, 500, 2, 90, 210)])
each_shape = pytest.mark.parametrize("shape", SHAPES)


class Plain(Learner):
    """By autograd."""

    plain = "a test asks for it"


class Odds:
    """A push that depends on what the model says, as that of a policy does."""

    needs_told = True

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        assert told is not None
        return Terms(push_N=batch.weights_N * told.logprobs_N.exp() * told.entropy_N / scale, loss=torch.zeros(()))


def learn(learner: Learner, batch: Batch = BATCH, *, factor: float = 1.0) -> tuple[float, dict[str, Tensor]]:
    loss, _ = learner(batch, 700.0)
    (loss * factor).backward()
    return float(loss.detach()), gradients(learner.model)


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LEAST_TOKENS", 256)
    assert len(cut(BATCH, width=64)) == 2


@each_shape
@pytest.mark.parametrize("algorithm", [CrossEntropy(), Odds()], ids=["cross-entropy", "told"])
def test_written_out_equals_autograd(shape: str, algorithm: CrossEntropy | Odds):
    assert Learner(small(shape), algorithm).plain is None
    wanted_loss, wanted = learn(Plain(small(shape), algorithm))
    loss, found = learn(Learner(small(shape), algorithm))
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert_same(found, wanted, share=2e-5)


@each_shape
def test_bf16_stays_near_fp32(shape: str):
    with torch.autocast("cpu", torch.bfloat16):
        loss, found = learn(Learner(small(shape), CrossEntropy()))
        plain_loss, plain = learn(Plain(small(shape), CrossEntropy()))
    wanted_loss, wanted = learn(Plain(small(shape), CrossEntropy()))
    assert abs(loss - wanted_loss) < max(2 * abs(plain_loss - wanted_loss), 0.003 * wanted_loss)
    for name, grad in wanted.items():
        off, usual = (found[name] - grad).norm(), (plain[name] - grad).norm()
        assert off < 1.5 * usual + 0.01 * grad.norm(), (
            f"{name}: {off / grad.norm():.3f}, autograd {usual / grad.norm():.3f}"
        )


@each_shape
@pytest.mark.parametrize("kind", [Learner, Plain])
def test_keeping_less_changes_no_bit(shape: str, kind: type[Learner]):
    loss, found = learn(kind(small(shape), CrossEntropy(), checkpoint=True))
    wanted_loss, wanted = learn(kind(small(shape), CrossEntropy()))
    assert loss == wanted_loss and all(torch.equal(found[name], grad) for name, grad in wanted.items())


@each_shape
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_threads_change_no_bit(shape: str, low: bool):
    made = []
    for threads in (1, 2, 3):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            made.append(learn(Learner(small(shape), Odds(), threads=threads)))
    for loss, found in made[1:]:
        assert loss == made[0][0] and all(torch.equal(found[name], grad) for name, grad in made[0][1].items())


def test_a_factor_on_the_loss_is_one_on_the_gradients():
    _, wanted = learn(Learner(small(), CrossEntropy()))
    _, found = learn(Learner(small(), CrossEntropy()), factor=0.5)
    assert_same({name: grad * 2 for name, grad in found.items()}, wanted, share=1e-6)


@pytest.mark.parametrize("algorithm", [CrossEntropy(), Odds(), TowardsTeacher()], ids=["cross-entropy", "told", "pull"])
@pytest.mark.parametrize("shape", ["dense", "untied"])
def test_what_fills_a_piece_up_is_not_learnt(shape: str, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch):
    made = []
    for filled in (False, True):
        monkeypatch.setattr(shards, "fills", lambda passes, filled=filled: filled)
        made.append(learn(Learner(small(shape), algorithm, teacher=small(shape, seed=3))))
    assert {shards.missing(part.tokens.stop - part.tokens.start) for part in cut(BATCH, width=64)} != {0}
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-6)
    assert_same(made[1][1], made[0][1], share=1e-5)


def test_pieces_have_few_numbers_of_rows():
    counts = range(1, 1 << 15)
    assert all(0 <= shards.missing(count) <= max(15, count / 16) for count in counts)
    assert len({count + shards.missing(count) for count in counts}) <= 32 + 6 * 16  # 16 in each doubling


@pytest.mark.parametrize("width", [128, 1024])
def test_pieces_are_whole_documents_and_all_of_them(width: int):
    batch = pack([document(length, seed=length) for length in (900, 1500, 2, 2, 700, 4000, 3, 90, 2000)])
    parts = cut(batch, width=width)
    assert len(parts) > 2
    assert tuple(length for part in parts for length in part.lengths) == batch.lengths
    for axis, count in (("tokens", len(batch.tokens_T)), ("targets", len(batch.rows_N))):
        edges = [getattr(part, axis) for part in parts]
        assert [edge.start for edge in edges] == [0, *(edge.stop for edge in edges[:-1])] and edges[-1].stop == count
    for part in parts:
        rows = batch.rows_N[part.targets]
        assert part.tokens.start <= int(rows.min()) and int(rows.max()) < part.tokens.stop
        assert sum(part.lengths) == part.tokens.stop - part.tokens.start


def test_a_model_that_the_kernels_cannot_take_learns_by_autograd():
    model = small()
    model.model.embed_tokens.weight.requires_grad_(False)
    learner = Learner(model, CrossEntropy())
    assert learner.plain is not None and "frozen" in learner.plain
    assert "model.embed_tokens.weight" not in learn(learner)[1]

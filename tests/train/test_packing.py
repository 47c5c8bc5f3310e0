"""Documents packed together learn as each alone: no leak, no dependence on order or neighbours."""

import pytest
import torch

from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.logprobs import surprise
from octavo.train.batch import Batch, batches_of, pack
from octavo.train.step import CrossEntropy, Learner
from tests.train.models import SHAPES, assert_same, beginning, document, gradients, small

DOCUMENTS = [document(length, seed=length, trained=0.7) for length in (5, 40, 2, 17, 64, 33, 2, 100)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def learn(shape: str, groups: list[list[int]], *, scale: float) -> dict[str, torch.Tensor]:
    """Gradients of the documents, packed in these groups."""
    return learn_all(small(shape), [pack([DOCUMENTS[i] for i in group]) for group in groups], scale=scale)


def learn_all(model: Decoder, batches: list[Batch], *, scale: float) -> dict[str, torch.Tensor]:
    for batch in batches:
        loss, _ = Learner(model, CrossEntropy())(batch, scale)
        loss.backward()
    return gradients(model)


@each_shape
def test_gradients_equal_those_of_plain_arithmetic(shape: str):
    """One document at a time through whole logits and autograd: what nobody can get wrong."""
    model = small(shape)
    scale = sum(float(one.weights.sum()) for one in DOCUMENTS)
    for one in DOCUMENTS:
        tokens = torch.from_numpy(one.tokens).long()
        logits = model.logits(model(tokens, PackedContext([len(tokens)])))
        (surprise(logits[:-1], tokens[1:]) * torch.from_numpy(one.weights[1:])).sum().div(scale).backward()
    assert_same(learn(shape, [list(range(len(DOCUMENTS)))], scale=scale), gradients(model), share=1e-5)


@each_shape
def test_order_and_accumulation_change_nothing(shape: str):
    whole = learn(shape, [[0, 1, 2, 3, 4, 5, 6, 7]], scale=50)
    assert_same(learn(shape, [[6, 1, 7, 0, 5, 3, 2, 4]], scale=50), whole, share=1e-5)
    assert_same(learn(shape, [[0], [1, 2, 3], [4, 5, 6, 7]], scale=50), whole, share=1e-5)


@pytest.mark.parametrize("plainly", [False, True], ids=["kernels", "autograd"])
@each_shape
def test_a_beginning_in_common_changes_no_gradient(shape: str, plainly: bool, monkeypatch: pytest.MonkeyPatch):
    if plainly:
        monkeypatch.setattr(Learner, "plain", "asked for")
    samples = [*beginning(20, [1, 30, 7]), DOCUMENTS[3], *beginning(33, [2, 2]), *beginning(16, [400] * 6)]
    whole = learn_all(small(shape), [pack(samples)], scale=50)
    shared = list(batches_of(samples, tokens=2600, share=True))
    assert [len(batch.lengths) for batch in shared] == [4] and shared[0].lengths[0] == (20, 1, 30, 7)
    assert_same(learn_all(small(shape), shared, scale=50), whole, share=1e-5)
    parts = list(batches_of(samples, tokens=450, share=True))
    assert len(parts) > 4
    assert_same(learn_all(small(shape), parts, scale=50), whole, share=1e-5)


@each_shape
def test_a_document_learns_nothing_from_its_neighbours(shape: str):
    """The gradient of the middle document's loss by every other document's embeddings is exactly 0."""
    model, lengths = small(shape), [7, 20, 33]
    tokens = torch.randint(40, (60,), generator=torch.Generator().manual_seed(3))
    embedded = model.model.embed_tokens(tokens).detach().requires_grad_()
    model.model.embed_tokens.register_forward_hook(lambda *_: embedded)
    logits = model.logits(model(tokens, PackedContext(lengths))[7:26])
    surprise(logits, tokens[8:27]).sum().backward()
    assert embedded.grad is not None
    assert not embedded.grad[:7].any() and not embedded.grad[27:].any() and embedded.grad[7:26].any()

"""What is learnt at the head equals the plain formula, and no tensor of all logits is ever made."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from octavo.nn import head
from octavo.nn.head import tell, weighted_surprise
from octavo.nn.logprobs import surprise

TOKENS, WIDTH, VOCAB = 23, 16, 40


def drawn(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, targets, and weights of both signs."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(TOKENS, WIDTH).to(dtype), torch.randn(VOCAB, WIDTH)
    return hidden, weight, torch.randint(VOCAB, (TOKENS,)), torch.randn(TOKENS)


@pytest.mark.parametrize(
    "rows", [1, 7, TOKENS, 100]
)  # of a chunk: one, a tail of two, all at once, more than there are
def test_value_and_gradients_equal_the_formula(monkeypatch: pytest.MonkeyPatch, rows: int):
    monkeypatch.setattr(head, "CHUNK_BYTES", rows * VOCAB * 4)
    hidden, weight, targets, push = drawn()
    plain, ours = ([x.clone().requires_grad_() for x in (hidden, weight)] for _ in range(2))
    wanted = (push * surprise(plain[0] @ plain[1].T, targets)).sum()
    found = weighted_surprise(*ours, targets, push)
    (3 * wanted).backward(), (3 * found).backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)


def test_bf16_stays_near_fp32():
    hidden, weight, targets, push = drawn(dtype=torch.bfloat16)
    ours = [x.clone().requires_grad_() for x in (hidden, weight)]
    plain = [x.float().clone().requires_grad_() for x in (hidden, weight)]
    weighted_surprise(*ours, targets, push).backward()
    (push * surprise(plain[0] @ plain[1].T, targets)).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.dtype == one.dtype
        assert (one.grad.float() - other.grad).norm() < 0.02 * other.grad.norm()


def test_what_is_told_equals_the_formula(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 5 * VOCAB * 4)
    hidden, weight, targets, _ = drawn(1)
    told = tell(hidden, weight, targets)
    logits = hidden @ weight.T
    torch.testing.assert_close(told.logprobs_N, -surprise(logits, targets), atol=1e-5, rtol=1e-5)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(told.entropy_N, entropy, atol=1e-5, rtol=1e-5)


def test_nothing_to_predict_is_nothing():
    hidden, weight, targets, push = drawn()
    weight.requires_grad_()
    total = weighted_surprise(hidden[:0], weight, targets[:0], push[:0])
    total.backward()
    assert total.item() == 0 and weight.grad is not None and not weight.grad.any()
    assert len(tell(hidden[:0], weight, targets[:0]).logprobs_N) == 0


MEMORY = """
import resource, torch
from octavo.nn.head import tell, weighted_surprise
torch.manual_seed(0)
tokens, width, vocab = 1024, 32, 151936
hidden, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocab, width, requires_grad=True)
targets, push = torch.randint(vocab, (tokens,)), torch.ones(tokens)
small = slice(0, 8)
weighted_surprise(hidden[small], weight, targets[small], push[small]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tell(hidden, weight, targets)
weighted_surprise(hidden, weight, targets, push).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, tokens * vocab * 4)
"""


def test_no_tensor_of_all_logits_is_held():
    """1,024 tokens x 151,936 words in fp32 are 622 MB. A chunk is 134 MB, and two of them may live."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    grown, whole = map(int, done.stdout.split())
    assert grown < whole * 0.6, f"{grown / 1e6:.0f} MB were taken, all logits are {whole / 1e6:.0f} MB"

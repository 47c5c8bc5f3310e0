"""The kernels of training equal plain torch and its autograd, on every instruction set that this machine has."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.nn.context import Length, PackedContext, length_tokens, positions
from octavo.nn.kernels import cpu_flags
from octavo.nn.kernels.build import TIERS
from octavo.nn.kernels.training import Documents, training_kernels
from octavo.nn.layers import rms_norm
from octavo.nn.logprobs import surprise
from octavo.nn.rope import Rope
from octavo.nn.rotate import rotate, rotation
from octavo.nn.shapes import HeadShape

HERE = [name for name, tier in TIERS.items() if cpu_flags().issuperset(tier.needs)]
every_tier = pytest.mark.parametrize("tier", HERE)
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
EPS = 1e-6


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """fp32: off by 1e-5 of the largest number at most; bf16: by 1 % in the mean square."""
    found, wanted = found.float(), wanted.float()
    if dtype == torch.float32:
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)
    else:
        assert (found - wanted).norm() <= 0.01 * wanted.norm()


@every_tier
@every_type
def test_norm(tier: str, dtype: torch.dtype):
    kernels = training_kernels(tier)
    torch.manual_seed(0)
    x, added, weight, slope = torch.randn(37, 48), torch.randn(37, 48).to(dtype), torch.rand(48), torch.randn(37, 48)
    whole = (x + added).requires_grad_()
    weight.requires_grad_()
    wanted = rms_norm(whole, weight, EPS)
    wanted.backward(slope.to(dtype).float())
    total, y = kernels.norm(x, added, weight.detach(), eps=EPS, dtype=dtype)
    near(total, whole.detach(), torch.float32), near(y, wanted.detach(), dtype)
    dweight, before = torch.ones(48), torch.randn(37, 48)
    dx, low = kernels.norm_back(
        slope.to(dtype), total, weight.detach(), eps=EPS, dx_TD=before.clone(), dweight_D=dweight
    )
    assert whole.grad is not None and weight.grad is not None
    near(dx, whole.grad + before, torch.float32), near(low, dx, dtype), near(dweight, weight.grad + 1, torch.float32)
    fresh, _ = kernels.norm_back(slope.to(dtype), total, weight.detach(), eps=EPS, dx_TD=None, dweight_D=dweight)
    near(fresh, whole.grad, torch.float32)


@every_tier
@every_type
def test_swiglu(tier: str, dtype: torch.dtype):
    kernels = training_kernels(tier)
    torch.manual_seed(0)
    both, slope = (torch.randn(37, 64) * 5).to(dtype), torch.randn(37, 32).to(dtype)
    both[0, :4] = torch.tensor([500.0, -500, 88, -88])
    leaf = both.float().requires_grad_()
    gate, up = leaf.chunk(2, dim=-1)
    wanted = F.silu(gate) * up
    wanted.backward(slope.float())
    near(kernels.swiglu(both), wanted.detach(), dtype)
    assert leaf.grad is not None
    dboth, made = kernels.swiglu_back(slope, both)
    near(dboth, leaf.grad, dtype), near(made, wanted.detach(), dtype)


@every_tier
@every_type
@pytest.mark.parametrize("vocab", [7, 48, 101])
def test_surprise(tier: str, dtype: torch.dtype, vocab: int):
    kernels = training_kernels(tier)
    torch.manual_seed(0)
    logits, targets, weights = (torch.randn(37, vocab) * 4).to(dtype), torch.randint(vocab, (37,)), torch.randn(37)
    leaf = logits.float().requires_grad_()
    wanted = surprise(leaf, targets)
    (wanted * weights).sum().backward()
    logprobs, entropy = kernels.surprise(logits, targets, entropy=True)
    assert entropy is not None
    near(logprobs, -wanted.detach(), torch.float32)
    near(entropy, torch.distributions.Categorical(logits=leaf.detach()).entropy(), torch.float32)
    kernels.surprise(logits, targets, weights)
    assert leaf.grad is not None
    near(logits, leaf.grad, dtype)


@every_tier
@every_type
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("vocab", [7, 48, 101])
def test_divergence(tier: str, dtype: torch.dtype, reverse: bool, vocab: int):
    kernels = training_kernels(tier)
    torch.manual_seed(0)
    ours, theirs, weights = *(torch.randn(2, 37, vocab) * 4).to(dtype), torch.randn(37)
    theirs[0], ours[1, :3], theirs[2, :3] = ours[0], -1e4, -1e4
    leaf = ours.double().requires_grad_()
    p, q = leaf.log_softmax(-1), theirs.double().log_softmax(-1)
    wanted = (p.exp() * (p - q) if reverse else q.exp() * (q - p)).sum(-1)
    (wanted * weights).sum().backward()
    far = kernels.divergence(ours, theirs, weights, reverse=reverse)
    near(far, wanted.detach(), torch.float32)
    assert leaf.grad is not None and far[0].abs() < 1e-5
    near(ours, leaf.grad, dtype)


SHAPES = {
    "16": HeadShape(width=32, heads=4, kv_heads=2, head_width=16, qk_norm=True),
    "32": HeadShape(width=32, heads=3, kv_heads=3, head_width=32, qk_norm=True),
    "48, no norm": HeadShape(width=32, heads=4, kv_heads=1, head_width=48),
}
LENGTHS: list[Length] = [1, 15, 16, 17, 40, 150, 2]
# trunks and branches that end in, before and behind blocks of keys and of queries; long ones, of which some is skipped
FORKS: list[Length] = [(5, 3, 40, 1), 7, (37, 20, 100, 16), (16, 16, 16), (130, 70, 9, 33), (16, 1, 1, 1), (1, 300, 2)]


def plainly(qkv: Tensor, s: HeadShape, norms: tuple[Tensor, Tensor] | None, lengths: list[Length]) -> Tensor:
    """The same in plain torch: norm, rotate, attend."""
    ctx = PackedContext(lengths)
    cos, sin = rotation(Rope(width=s.head_width), ctx.positions_T)
    q, k, v = qkv.split((s.heads, s.kv_heads, s.kv_heads), dim=1)
    if norms is not None:
        q, k = rms_norm(q, norms[0], s.eps), rms_norm(k, norms[1], s.eps)
    return ctx.attend(0, rotate(q, cos, sin), rotate(k, cos, sin), v, scale=s.head_width**-0.5)


@every_tier
@every_type
@pytest.mark.parametrize("lengths", [LENGTHS, FORKS], ids=["plain", "forks"])
@pytest.mark.parametrize("shape", SHAPES)
def test_documents(tier: str, dtype: torch.dtype, shape: str, lengths: list[Length]):
    s, tokens = SHAPES[shape], sum(map(length_tokens, lengths))
    torch.manual_seed(0)
    qkv = torch.randn(tokens, s.heads + 2 * s.kv_heads, s.head_width).to(dtype)
    slope = torch.randn(tokens, s.heads, s.head_width).to(dtype)
    norms = (torch.rand(s.head_width) + 1, torch.rand(s.head_width) + 1) if s.qk_norm else None
    leaves = [qkv.float().requires_grad_(), *(w.clone().requires_grad_() for w in norms or ())]
    wanted = plainly(leaves[0], s, (leaves[1], leaves[2]) if norms else None, lengths)
    wanted.backward(slope.float())
    documents = Documents(s, lengths, *rotation(Rope(width=s.head_width), positions(lengths)))
    found = []
    for threads in (1, 3):
        kernels = training_kernels(tier, threads=threads)
        dnorms = (torch.zeros(s.head_width), torch.zeros(s.head_width)) if norms else None
        made = kernels.attend(qkv, documents, norms)
        dqkv = kernels.attend_back(slope, qkv, documents, norms, made=made, dnorm_K=dnorms)
        near(made[0], wanted.detach(), dtype)
        for grad, leaf in zip((dqkv, *(dnorms or ())), leaves, strict=True):
            assert leaf.grad is not None
            near(grad, leaf.grad, dtype)
        found.append((*made, dqkv, *(dnorms or ())))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))  # threads change no bit


@every_tier
@every_type
@pytest.mark.parametrize("outputs, inputs", [(48, 96), (96, 48), (32, 32), (16, 16), (560, 288), (50, 32), (32, 7)])
@pytest.mark.parametrize("tokens", [0, 1, 33, 700])
def test_outer(tier: str, dtype: torch.dtype, outputs: int, inputs: int, tokens: int):
    """Equal to the product in float64, whatever the shape; threads change no bit."""
    torch.manual_seed(0)
    dy, x = torch.randn(tokens, outputs).to(dtype), torch.randn(tokens, inputs).to(dtype)
    one, two = (training_kernels(tier, threads=threads).outer(dy, x) for threads in (1, 3))
    assert one.shape == (outputs, inputs) and one.dtype == torch.float32 and torch.equal(one, two)
    by_tiles = tier == "amx" and outputs % 16 == 0 == inputs % 16
    near(one, dy.T.double() @ x.double(), torch.float32 if by_tiles else dtype)


@every_tier
@every_type
def test_documents_do_not_touch_each_other(tier: str, dtype: torch.dtype):
    """A document comes out the same, bit by bit, beside any other, and gets exactly no gradient from another's."""
    s, lengths, kernels = SHAPES["16"], [20, (16, 9, 8), 7], training_kernels(tier)
    torch.manual_seed(0)
    qkv = torch.randn(60, s.heads + 2 * s.kv_heads, s.head_width).to(dtype)
    slope = torch.randn(60, s.heads, s.head_width).to(dtype)
    slope[:20], slope[53:] = 0, 0
    documents = Documents(s, lengths, *rotation(Rope(width=s.head_width), positions(lengths)))
    made = kernels.attend(qkv, documents, None)
    dqkv = kernels.attend_back(slope, qkv, documents, None, made=made, dnorm_K=None)
    assert not dqkv[:20].any() and not dqkv[53:].any() and dqkv[20:53].any()
    qkv[:20], qkv[53:] = torch.randn_like(qkv[:20]) * 50, torch.inf
    again = kernels.attend(qkv, documents, None)
    assert torch.equal(again[0][20:53], made[0][20:53])
    assert torch.equal(kernels.attend_back(slope, qkv, documents, None, made=again, dnorm_K=None)[20:53], dqkv[20:53])


@every_tier
@pytest.mark.parametrize("width, inner", [(32, 32), (64, 96), (192, 96), (256, 96), (128, 384), (256, 800), (512, 96)])
@pytest.mark.parametrize("tokens", [0, 1, 37, 300])
def test_mlp_by_tiles(tier: str, width: int, inner: int, tokens: int):
    """Forward and backward equal autograd in float64 on the same bf16; threads and other rows change no bit."""
    if tier != "amx":
        assert training_kernels(tier).panels(*torch.zeros(3, 32, 32), dtype=torch.bfloat16) is None
        return
    torch.manual_seed(0)
    x, slope = torch.randn(tokens, width).bfloat16(), torch.randn(tokens, width).bfloat16()
    gate, up = torch.randn(2, inner, width) / width**0.5
    down = torch.randn(width, inner) / inner**0.5
    leaves = [t.bfloat16().double().requires_grad_() for t in (x, gate, up, down)]
    wanted = (F.silu(leaves[0] @ leaves[1].T) * (leaves[0] @ leaves[2].T)) @ leaves[3].T
    wanted.backward(slope.double())
    found = []
    for threads in (1, 3):
        kernels = training_kernels(tier, threads=threads)
        panels = kernels.panels(gate, up, down, dtype=torch.bfloat16)
        assert panels is not None
        pairs, out = kernels.mlp(x, panels)
        assert torch.equal(kernels.mlp(x[-1:], panels)[1], out[-1:])
        dx, made = kernels.mlp_back(slope, pairs, panels)
        dgate, dup = kernels.outer(pairs, x).chunk(2)
        found.append((out, dx, dgate, dup, kernels.outer(slope, made)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    near(found[0][0], wanted.detach(), torch.bfloat16)
    for grad, leaf in zip(found[0][1:], leaves, strict=True):
        assert leaf.grad is not None
        near(grad, leaf.grad, torch.bfloat16)


@pytest.mark.skipif("amx" not in HERE, reason="this CPU has no tiles")
def test_mlp_by_tiles_with_far_gates():
    """Gates far from 0, infinite ones and none: what silu gives, or NaN; never another number."""
    kernels = training_kernels("amx")
    panels = kernels.panels(torch.eye(32), torch.eye(32), torch.eye(32), dtype=torch.bfloat16)
    assert panels is not None
    x = torch.zeros(3, 32, dtype=torch.bfloat16)
    x[0, :8] = torch.tensor([500.0, -500, 88, -88, 20, -20, -9, 0.001])
    x[1, 0] = torch.nan
    _, out = kernels.mlp(x, panels)
    torch.testing.assert_close(out[0].float(), F.silu(x[0].float()) * x[0].float(), rtol=0.01, atol=1e-6)
    assert out[1].isnan().all() and not out[2].any()

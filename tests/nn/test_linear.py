"""Packed linears equal plain ones within the rounding of their type; what a type cannot hold is not packed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from octavo.models import build
from octavo.nn import linear
from octavo.nn.context import PackedContext
from tests.models.test_sizes import COMMON, MOE

TINY = COMMON | {"model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 300}  # fmt: skip
BOUNDS = {"fp16": 2e-3, "bf16": 2e-2, "plain": 1e-6}  # of the result's own size


def works(kind: linear.Kind) -> bool:
    return kind == "plain" or linear.best_kind() == kind or (kind == "fp16" and linear.best_kind() == "bf16")


@pytest.mark.parametrize("kind", linear.KINDS)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 40, 24), (16, 33, 64), (130, 20_000, 8)])
def test_equals_a_plain_linear(kind: linear.Kind, rows: int, outputs: int, inputs: int):
    if not works(kind):
        pytest.skip(f"this CPU does not run {kind}")
    torch.manual_seed(rows)
    weight, bias, x = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(rows, inputs)
    for b in (bias, None):
        found = linear.pack(weight.bfloat16(), b, kind=kind)(x.to(linear.KINDS[kind][1])).float()
        wanted = F.linear(x, weight.bfloat16().float(), b)
        assert (found - wanted).square().mean().sqrt() <= BOUNDS[kind] * wanted.square().mean().sqrt()


@pytest.mark.parametrize("value", [1e5, float("inf"), float("nan")])
def test_what_fp16_cannot_hold_is_not_packed(value: float):
    weight = torch.ones(4, 8)
    weight[1, 2] = value
    layer = linear.pack(weight, None, kind="fp16")
    assert isinstance(layer, linear.PlainLinear)
    torch.testing.assert_close(layer(torch.ones(2, 8)), F.linear(torch.ones(2, 8), weight), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [1.5, 1e5])
def test_an_embedding_that_fp16_cannot_hold_stays_as_it_is(value: float, dtype: torch.dtype):
    model = build(TINY).requires_grad_(False)
    table = torch.ones(300, 64, dtype=dtype)
    table[3, 4] = value
    assert linear.Packing(model, kind="fp16", tied=True)("model.embed_tokens.weight", table)
    assert torch.equal(model.get_parameter("model.embed_tokens.weight").float(), table.float())


@pytest.mark.parametrize("values", [TINY | {"tie_word_embeddings": True}, TINY | {"tie_word_embeddings": False},
                                    TINY | {"attention_bias": True}, TINY | MOE | {"moe_intermediate_size": 32,
                                    "num_experts": 6, "num_experts_per_tok": 2, "num_key_value_heads": 2}])  # fmt: skip
@pytest.mark.parametrize("order", ["model", "reversed"])
def test_a_packed_model_equals_the_plain_one(values: dict, order: str):
    torch.manual_seed(0)
    kind = linear.best_kind()
    dtype = linear.KINDS[kind][1]
    model, packed = build(values).requires_grad_(False), build(values).requires_grad_(False).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = [(name, tensor.to(dtype)) for name, tensor in model.state_dict().items()]
    place = linear.Packing(packed, kind=kind, tied=values.get("tie_word_embeddings", False))
    for name, tensor in state if order == "model" else reversed(state):
        if not place(name, tensor):
            packed.get_parameter(name).copy_(tensor)
    assert not place.waiting
    assert not [name for name, module in packed.named_modules() if type(module) is nn.Linear and "gate" not in name]
    tokens = torch.arange(40)
    wanted = model.logits(model(tokens, PackedContext([30, 10])))
    found = packed.logits(packed(tokens, PackedContext([30, 10]))).float()
    plain = model.to(dtype)
    rounded = plain.logits(plain(tokens, PackedContext([30, 10]))).float()  # what the type alone does
    bound = max(1e-2 * wanted.square().mean().sqrt(), 1.3 * (rounded - wanted).square().mean().sqrt())
    assert (found - wanted).square().mean().sqrt() < bound

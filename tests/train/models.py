"""Small models with large random weights, random documents, and the gradients of a step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.core.sample import Sample, sample
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.nn.context import length_tokens
from octavo.train.batch import Batch

VOCAB = 48
DENSE: dict[str, Any] = {
    "model_type": "qwen3", "hidden_act": "silu", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": True,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
SHAPES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "untied": DENSE | {"tie_word_embeddings": False},
    "moe": DENSE | {"model_type": "qwen3_moe"} | EXPERTS,
    "dense, tiles": DENSE | {"intermediate_size": 96},  # of widths that go by tiles, where there are some
    "moe, tiles": DENSE | {"model_type": "qwen3_moe"} | EXPERTS | {"moe_intermediate_size": 32},
}


def small(name: str = "dense", *, seed: int = 0) -> Decoder:
    """A model whose logits spread over some units, so that 1e-5 means something."""
    torch.manual_seed(seed)
    model = build(SHAPES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
            else:
                parameter.uniform_(0.5, 1.5)
    return model


def document(length: int, *, seed: int, trained: float = 1.0) -> Sample:
    """Random tokens; each is trained with this chance, the last always."""
    rng = np.random.default_rng(seed)
    weights = (rng.random(length) < trained).astype(float) * rng.uniform(0.5, 2.0, length)
    weights[-1] = 1.0
    return sample(rng.integers(0, VOCAB, length).tolist(), weights.tolist(), name=f"document {seed}")


def beginning(trunk: int, branches: Sequence[int]) -> list[Sample]:
    """Samples that begin with the same random tokens, of which none is trained."""
    rng = np.random.default_rng(trunk)
    first = rng.integers(0, VOCAB, trunk).tolist()
    return [
        sample([*first, *rng.integers(0, VOCAB, size).tolist()], [0.0] * trunk + [1.0] * size, name=f"{trunk} + {size}")
        for size in branches
    ]


def documents(batch: Batch) -> list[Tensor]:
    """Tokens of each sample, whether it branches or not."""
    found = list[Tensor]()
    for tokens_T, length in zip(batch.tokens_T.split([*map(length_tokens, batch.lengths)]), batch.lengths, strict=True):
        trunk_T, *branches = (tokens_T,) if isinstance(length, int) else tokens_T.split(length)
        found += [torch.cat((trunk_T, branch_T)) for branch_T in branches] or [trunk_T]
    return found


def gradients(model: Decoder) -> dict[str, Tensor]:
    """Of every parameter, fp32, and away with them."""
    found = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], *, share: float) -> None:
    """Each parameter's gradient is off by at most this share of its own largest number."""
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        off = (found[name] - grad).abs().max() / grad.abs().max().clamp(min=1e-6)
        assert off < share, f"{name} is off by {off:.1e} of its largest number"

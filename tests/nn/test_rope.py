"""Frequencies equal those of `transformers` to the last bit or the one beside it."""

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo.nn.rope import Rope
from octavo.nn.rotate import rotation

CONTEXT = 40_960
SCALINGS = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32_768},
}  # fmt: skip
OURS = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 32.0, "low": 1.0, "high": 4.0, "original": 8192},
    "yarn": {"factor": 4.0, "low": 1.0, "high": 32.0, "original": 32_768},
}


def theirs(kind: str, *, width: int, theta: float) -> tuple[np.ndarray, float]:
    rope = {"rope_type": kind, "rope_theta": theta, **SCALINGS[kind]}
    config = transformers.Qwen3Config(
        head_dim=width, num_attention_heads=4, hidden_size=4 * width, max_position_embeddings=CONTEXT,
        rope_parameters=rope,
    )  # fmt: skip
    if kind == "default":
        return transformers.models.qwen3.modeling_qwen3.Qwen3RotaryEmbedding(config).inv_freq.numpy(), 1.0
    frequency, attention = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequency.numpy(), attention


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6, 5e6])
@pytest.mark.parametrize("width", [16, 64, 80, 128, 256])
def test_frequencies_equal_the_reference(kind: str, theta: float, width: int):
    found, attention = Rope(width=width, theta=theta, kind=kind, **OURS[kind]).frequencies()
    wanted, wanted_attention = theirs(kind, width=width, theta=theta)
    assert found.dtype == np.float32 and attention == wanted_attention
    np.testing.assert_array_max_ulp(found, wanted, maxulp=1)


def test_plain_frequencies_are_the_true_ones_rounded():
    """The power is the fp32 number nearest to the true one; that is what makes them the same on every machine."""
    exponent = (np.arange(0, 128, 2, dtype=np.float32) / np.float32(128)).astype(np.longdouble)
    power = (np.longdouble(1e6) ** exponent).astype(np.float32)
    assert np.array_equal(Rope(width=128, theta=1e6).frequencies()[0], np.float32(1) / power)


def test_angles_are_positions_times_frequencies():
    rope, position = Rope(width=64, theta=1e6), torch.tensor([0, 1, 977, 40_959])
    cos, sin = rotation(rope, position)
    angle = position[:, None].double() * torch.from_numpy(rope.frequencies()[0]).double()
    torch.testing.assert_close(cos[:, :32].double(), angle.cos(), atol=4e-3, rtol=0)  # an angle of 40,959 in fp32
    torch.testing.assert_close(sin[:, 32:].double(), angle.sin(), atol=4e-3, rtol=0)
    assert torch.equal(cos[:, 32:], cos[:, :32]) and torch.equal(sin[:, :32], -sin[:, 32:])

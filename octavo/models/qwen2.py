"""Qwen2 and Qwen2.5. Source: arXiv:2412.15115 and the official config.json files."""

from collections.abc import Mapping
from typing import Any

from octavo.models.config import DecoderConfig, read_decoder


def qwen2(values: Mapping[str, Any]) -> DecoderConfig:
    """`model_type` qwen2: bias on queries, keys and values, none on the output; no per-head norm."""
    return read_decoder(values, family="Qwen2", qkv_bias=True)

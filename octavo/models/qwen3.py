"""Qwen3, dense and mixture of experts. Source: arXiv:2505.09388 and the official config.json files."""

from collections.abc import Mapping
from typing import Any

from octavo.models.config import DecoderConfig, read_decoder


def qwen3(values: Mapping[str, Any]) -> DecoderConfig:
    """`model_type` qwen3: queries and keys are normed per head, no bias unless the file says so."""
    return read_decoder({"head_dim": 128} | dict(values), family="Qwen3", qk_norm=True)


def qwen3_moe(values: Mapping[str, Any]) -> DecoderConfig:
    """`model_type` qwen3_moe: as qwen3, with routed experts and no shared one."""
    return read_decoder(values, family="Qwen3-MoE", qk_norm=True, moe=True)

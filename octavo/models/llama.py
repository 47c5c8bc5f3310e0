"""Llama 3.x, and what shares its shape (SmolLM2). Source: arXiv:2407.21783 and the official config.json files."""

from collections.abc import Mapping
from typing import Any

from octavo.models.config import DecoderConfig, read_decoder


def llama(values: Mapping[str, Any]) -> DecoderConfig:
    """`model_type` llama."""
    return read_decoder(values, family="Llama")

"""One file per family on a shared decoder. To add a family: its file, and one line in ARCHITECTURES.

Reading a config needs no torch; what builds a module imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from octavo.core.errors import ConfigError
from octavo.models.config import DecoderConfig
from octavo.models.llama import llama
from octavo.models.qwen2 import qwen2
from octavo.models.qwen3 import qwen3, qwen3_moe

if TYPE_CHECKING:
    from octavo.models.decoder import Decoder


def decoder(config: DecoderConfig) -> Decoder:
    """The module that the families share."""
    from octavo.models.decoder import Decoder

    return Decoder(config)


class Family(NamedTuple):
    """How a family reads its config.json, and the module built from what it read."""

    read: Callable[[Mapping[str, Any]], DecoderConfig]
    build: Callable[[DecoderConfig], Decoder] = decoder


# model_type in config.json -> family
ARCHITECTURES: dict[str, Family] = {
    "qwen3": Family(qwen3),
    "qwen3_moe": Family(qwen3_moe),
    "qwen2": Family(qwen2),
    "llama": Family(llama),
}


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """The decoder of a config.json. Raises ConfigError for an architecture or field that is not understood."""
    return _family(values).read(values)


def build(values: Mapping[str, Any]) -> Decoder:
    """The module of a config.json with fresh random parameters, on the default device."""
    family = _family(values)
    return family.build(family.read(values))


def skeleton(values: Mapping[str, Any]) -> Decoder:
    """The module of a config.json without memory for its parameters (the meta device): `load_weights` fills it."""
    from octavo.models.decoder import without_memory

    with without_memory():
        return build(values)


def _family(values: Mapping[str, Any]) -> Family:
    name = values.get("model_type")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(
            f"config.json has model_type={name!r:.80}; Octavo knows {', '.join(sorted(ARCHITECTURES))}. "
            f"Choose a model of one of these families."
        )
    return ARCHITECTURES[name]

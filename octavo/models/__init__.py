"""One file per family on a shared decoder. To add a family: its file, and one line in ARCHITECTURES."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from octavo.core.errors import ConfigError
from octavo.models.config import DecoderConfig
from octavo.models.decoder import Decoder
from octavo.models.llama import llama
from octavo.models.qwen2 import qwen2
from octavo.models.qwen3 import qwen3, qwen3_moe


class Family(NamedTuple):
    """How a family reads its config.json, and the module built from what it read."""

    read: Callable[[Mapping[str, Any]], DecoderConfig]
    build: Callable[[DecoderConfig], nn.Module] = Decoder


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
    model = family.build(family.read(values))
    assert isinstance(model, Decoder)
    return model


def skeleton(values: Mapping[str, Any]) -> Decoder:
    """The module of a config.json without memory for its parameters (the meta device): `load_weights` fills it."""
    with torch.device("meta"), _NoInit():
        return build(values)


class _NoInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`: without memory there is nothing to fill, and its first use there costs a second."""

    def __torch_function__(self, *call: Any) -> Any:
        func, args, kwargs = call[0], call[2], call[3] if len(call) > 3 else {}  # torch calls it with 3 or 4
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _family(values: Mapping[str, Any]) -> Family:
    name = values.get("model_type")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(
            f"config.json has model_type={name!r:.80}; Octavo knows {', '.join(sorted(ARCHITECTURES))}. "
            f"Choose a model of one of these families."
        )
    return ARCHITECTURES[name]

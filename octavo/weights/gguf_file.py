"""One GGUF file: tensors under their official names, dequantised one at a time.

Axes: E experts, R rows, C channels of a row, H heads, F half a head.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError, ConfigError
from octavo.weights import gguf_config
from octavo.weights.gguf_blocks import dequantised
from octavo.weights.gguf_header import GgufTensor, read_header
from octavo.weights.mapped import MappedFile, bytes_of
from octavo.weights.numbers import NUMBERS

T = TypeVar("T", bound=np.generic)


# name in GGUF -> official name: of the model, and after "blk.<layer>." of a layer
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
}  # fmt: skip
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
BANDS = "rope_freqs.weight"


class Named(NamedTuple):
    """A tensor under its official name. heads: its rows are paired within so many heads and are put back; 0: not."""

    stored: GgufTensor
    heads: int = 0


class GgufFile:
    """An open file. config: as config.json has it; fields: the metadata; tensors: under their official names."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError or ConfigError for a file that is damaged or not understood."""
        self.file = MappedFile(path)
        self.fields, found = read_header(self.file)
        self.config = gguf_config.read_config(self.fields, {name: t.shape for name, t in found.items()})
        self.tensors: dict[str, Named] = {}
        bands = found.pop(BANDS, None)
        for name, stored in found.items():
            self._add(name, stored)
        if bands is not None:
            self._read_bands(bands)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.file.size_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, by their official names; each expert is one."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self.tensors[name].stored.shape

    def dtype_name(self, name: str) -> str:
        """How one tensor is stored, as GGUF calls it."""
        return self.tensors[name].stored.type

    def array(self, name: str) -> NDArray[Any]:
        """One tensor: a view of the file where it is stored plainly and in the official order, else a new one."""
        stored, heads = self.tensors[name]
        if stored.type not in NUMBERS:
            return dequantised(self.raw(name), stored.type).reshape(stored.shape)
        return _official(self.file.array(NUMBERS[stored.type].bits, stored.shape, start=stored.start), heads)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of its rows: blocks never reach beyond a row, so that rows of blocks can change places too."""
        stored, heads = self.tensors[name]
        if stored.type in NUMBERS:
            return bytes_of(self.array(name))
        rows = math.prod(stored.shape[:-1])
        shape = rows, (stored.end - stored.start) // rows
        return _official(self.file.array(np.uint8, shape, start=stored.start), heads)

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk."""
        self.file.prefetch(self.tensors[name].stored.start, self.tensors[name].stored.end)

    def release(self, name: str) -> None:
        """Give the tensor's part of the file back to the system."""
        stored = self.tensors[name].stored
        self.file.release(stored.start, stored.end)

    def _add(self, name: str, stored: GgufTensor) -> None:
        """Enter a tensor under its official name, a stack of experts under the names of its experts."""
        body, _, leaf = name.rpartition(".")
        parts = body.split(".")
        prefix = f"model.layers.{parts[1]}." if len(parts) == 3 and parts[0] == "blk" and parts[1].isdecimal() else ""
        official = IN_LAYER.get(parts[2]) if prefix else TOP.get(body)
        if leaf not in ("weight", "bias"):
            official = None
        if official is not None:
            self.tensors[f"{prefix}{official}.{leaf}"] = Named(stored, self._heads(name, parts, stored))
        elif prefix and parts[2] in EXPERTS and leaf == "weight" and len(stored.shape) == 3:
            self._add_experts(f"{prefix}mlp.experts", EXPERTS[parts[2]], stored)
        else:
            raise CheckpointError(f"{self.file.path.name}: the tensor {name[:80]!r} is not understood for "
                                  f"{self.config['model_type']}. Choose another file of the model.")  # fmt: skip

    def _add_experts(self, prefix: str, leaf: str, stored: GgufTensor) -> None:
        count, size = stored.shape[0], (stored.end - stored.start) // stored.shape[0]
        if count != self.config.get("num_experts"):
            raise CheckpointError(
                f"{self.file.path.name}: {prefix}.*.{leaf} stacks {count:,} experts, the metadata says "
                f"{self.config.get('num_experts')!r:.40}. Download the file again."
            )
        for expert in range(count):
            start = stored.start + expert * size
            one = GgufTensor(stored.type, stored.shape[1:], start, start + size)
            self.tensors[f"{prefix}.{expert}.{leaf}.weight"] = Named(one)

    def _heads(self, name: str, parts: list[str], stored: GgufTensor) -> int:
        """Heads whose rows llama.cpp's converter has paired: of queries and keys, in the Llama family only."""
        if self.config["model_type"] != "llama" or parts[-1] not in ("attn_q", "attn_k"):
            return 0
        queries = self.config.get("num_attention_heads")
        heads = queries if parts[-1] == "attn_q" else self.config.get("num_key_value_heads", queries)
        if type(heads) is not int or heads < 1 or stored.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{self.file.path.name}: {name} has {stored.shape[0]:,} rows, which {heads!r:.40} heads cannot share. "
                f"Download the file again."
            )
        if len(stored.shape) == 1 and stored.type not in NUMBERS:
            raise CheckpointError(
                f"{self.file.path.name}: {name}, one row, is stored as {stored.type}, plain numbers were needed. "
                f"Choose another file of the model."
            )
        return heads

    def _read_bands(self, stored: GgufTensor) -> None:
        if stored.type != "F32" or len(stored.shape) != 1:
            raise CheckpointError(f"{self.file.path.name}: {BANDS} is no row of F32. Download the file again.")
        width, theta = self.config.get("head_dim"), self.config.get("rope_theta", 10_000.0)
        if type(width) is not int or type(theta) is not float:
            raise ConfigError(
                "GGUF: rope_freqs.weight without rope.dimension_count and rope.freq_base. Download again."
            )
        scaling: dict[str, Any] = gguf_config.banded_scaling(
            self.file.array(np.float32, stored.shape, start=stored.start), width=width, theta=theta
        )
        if scaling and "rope_scaling" in self.config:
            raise ConfigError(
                f"GGUF: rope_freqs.weight and rope scaling {self.config['rope_scaling']!r:.200}, Octavo does one of "
                f"the two. Choose another file of the model."
            )
        if scaling:
            self.config["rope_scaling"] = scaling


def _official(rows: NDArray[T], heads: int) -> NDArray[T]:
    """Rows in the official order: llama.cpp turns neighbouring channels, the models those half a head apart."""
    if not heads:
        return rows
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])  # (H, F, 2, ...)
    return pairs.swapaxes(1, 2).reshape(rows.shape)

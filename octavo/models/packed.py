"""A decoder whose weights are packed for the CPU kernels: what it consists of, and how it is made. No torch.

Axes: N outputs, K inputs, E experts, V vocabulary, D model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.models.config import DecoderConfig
from octavo.nn.packed import (
    GroupedWeight,
    Kind,
    PackedMatrix,
    interleaved,
    pack_bf16,
    pack_grouped,
    pack_w4,
    pack_w8,
    rotated,
    rotation_of,
    wide,
)
from octavo.nn.quant import Int4Weight, Weight, joined, quantise_w4, quantise_w8

Recipe = Literal["bf16", "w8", "w4", "stored"]  # stored: as the file has them where the kernels can, else w8
HEADS: dict[Recipe, Kind] = {"bf16": "bf16", "w8": "w8", "w4": "w8", "stored": "w8"}  # 4 bits cost a head too much
Stored = Weight | GroupedWeight
BYTES: dict[Kind, float] = {"bf16": 2, "w8": 1, "w4": 0.5, "g8": 1, "g4": 0.5, "g4m": 0.5}  # of data, per weight
AT_ONCE = 1 << 24  # numbers of a weight that are rounded before the next ones are looked at
PARTS = ("data", "groups", "scale", "bias")
Array = NDArray[Any]
Join = Callable[[Sequence[Array]], Array]


class Weights(Protocol):
    """Where a model's weights come from."""

    def numbers(self, name: str) -> Array:
        """A tensor by its official name: float32 or float16, or bf16 as the bits (uint16). May be a view of a file."""
        ...

    def quantised(self, name: str) -> Stored | None:
        """A tensor that is stored as small integers with their scales, in a way that the kernels know; else None.

        An Int8Weight or Int4Weight is rotated with blocks of `rotation_of` its inputs, a GroupedWeight is not.
        """
        ...


class Linear(NamedTuple):
    """What is packed as one matrix: tensors above one another, or interleaved (gate and up)."""

    names: tuple[str, ...]
    pairs: bool = False  # a panel of the first, one of the second, and so on
    biases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedModel:
    """arrays: everything by name, matrices as NAME.data, .groups, .scale, .bias;   kinds: of the matrices by name."""

    config: DecoderConfig
    kinds: dict[str, Kind]
    inputs: dict[str, int]
    rotations: dict[str, int]
    arrays: dict[str, Array]

    def matrix(self, name: str) -> PackedMatrix:
        """One linear layer: "layers.0.qkv", "layers.0.experts.3.down", "head" ..."""
        parts = {part: self.arrays[f"{name}.{part}"] for part in PARTS}
        kind = self.kinds[name]
        deep = wide(self.inputs[name])
        outputs = int(parts["data"].size // (BYTES[kind] * deep))
        return PackedMatrix(
            kind=kind, outputs=outputs, inputs=self.inputs[name], rotation=self.rotations[name], **parts
        )

    def array(self, name: str) -> Array:
        """Another array: "layers.0.norm_in", "norm", "embedding" ...; empty where the model has none."""
        return self.arrays.get(name, np.empty(0, dtype=np.float32))

    @property
    def read_bytes(self) -> int:
        """Of all arrays that a token of a dense model reads."""
        return sum(array.nbytes for name, array in self.arrays.items() if name != "embedding")


class Packed(NamedTuple):
    """One piece of a packed model. matrix: its kind, inputs and rotation, where it is one."""

    name: str
    arrays: dict[str, Array]
    matrix: tuple[Kind, int, int] | None = None


def pack(config: DecoderConfig, weights: Weights, *, recipe: Recipe, head: Kind | None = None) -> Iterator[Packed]:
    """Pack a model piece by piece: at most one matrix is in memory beside what the caller keeps.

    recipe   of the linear layers; routers stay in fp32, norms too;   head   kind of the head, None: as HEADS has it
    """
    head, keep = HEADS[recipe] if head is None else head, recipe == "stored"
    kind: Kind = "w8" if recipe == "stored" else recipe
    for i in range(config.layers):
        yield from _pack_layer(config, weights, layer=i, kind=kind, keep=keep)
    yield Packed("norm", {"norm": padded_row(as_floats(weights.numbers("model.norm.weight")))})
    embedding = "model.embed_tokens.weight"
    if not config.tied:
        yield Packed("embedding", {"embedding": as_bf16(_whole(weights, embedding))})
    yield _pack_linear("head", Linear((embedding if config.tied else "lm_head.weight",)), weights, kind=head, keep=keep)


def _pack_layer(config: DecoderConfig, weights: Weights, *, layer: int, kind: Kind,
                keep: bool) -> Iterator[Packed]:  # fmt: skip
    official, short = f"model.layers.{layer}.", f"layers.{layer}."
    vectors = {"norm_in": "input_layernorm.weight", "norm_out": "post_attention_layernorm.weight"}
    if config.heads.qk_norm:
        vectors |= {"norm_q": "self_attn.q_norm.weight", "norm_k": "self_attn.k_norm.weight"}
    for name, source in vectors.items():
        yield Packed(short + name, {short + name: padded_row(as_floats(weights.numbers(official + source)))})
    for name, linear in _linears(config, layer).items():
        full = Linear(
            tuple(official + n for n in linear.names), linear.pairs, tuple(official + n for n in linear.biases)
        )
        yield _pack_linear(short + name, full, weights, kind=kind, keep=keep)
    if config.moe is not None and layer not in config.moe.dense_layers:
        router_ED = as_floats(weights.numbers(official + "mlp.gate.weight"))
        deep = np.zeros((len(router_ED), wide(router_ED.shape[1])), dtype=np.float32)
        deep[:, : router_ED.shape[1]] = router_ED
        yield Packed(short + "router", {short + "router": deep})


def _linears(config: DecoderConfig, layer: int) -> dict[str, Linear]:
    """The linear layers of one layer, by our names; tensors as they are called within the layer."""
    heads, moe = config.heads, config.moe
    attn = tuple(f"self_attn.{x}_proj" for x in "qkv")
    found = {
        "qkv": _linear(attn, bias=heads.qkv_bias),
        "out": _linear(("self_attn.o_proj",), bias=heads.out_bias),
    }
    if moe is None or layer in moe.dense_layers:
        found["gate_up"] = _linear(("mlp.gate_proj", "mlp.up_proj"), bias=config.mlp_bias, pairs=True)
        found["down"] = _linear(("mlp.down_proj",), bias=config.mlp_bias)
        return found
    for e in range(moe.experts):
        own = f"mlp.experts.{e}"
        found[f"experts.{e}.gate_up"] = _linear((f"{own}.gate_proj", f"{own}.up_proj"), bias=False, pairs=True)
        found[f"experts.{e}.down"] = _linear((f"{own}.down_proj",), bias=False)
    return found


def _linear(names: tuple[str, ...], *, bias: bool, pairs: bool = False) -> Linear:
    biases = tuple(f"{name}.bias" for name in names) if bias else ()
    return Linear(tuple(f"{name}.weight" for name in names), pairs, biases)


def _pack_linear(name: str, linear: Linear, weights: Weights, *, kind: Kind, keep: bool) -> Packed:
    join = interleaved if linear.pairs else _stacked
    biases = [as_floats(weights.numbers(source)) for source in linear.biases]
    bias_N = join([b[:, None] for b in biases])[:, 0] if biases else None
    stored = [found for source in linear.names if (found := weights.quantised(source)) is not None]
    alike = len(stored) == len(linear.names) and len({(type(s), getattr(s, "kind", "")) for s in stored}) == 1
    if alike and (keep or (kind != "bf16" and not isinstance(stored[0], GroupedWeight))):
        matrix = _pack_stored(stored, join, bias_N=bias_N)
    elif kind == "bf16":
        matrix = pack_bf16(join([as_bf16(_whole(weights, source)) for source in linear.names]), bias_N=bias_N)
    else:
        made: list[Stored] = [_rounded(_whole(weights, source), kind) for source in linear.names]
        matrix = _pack_stored(made, join, bias_N=bias_N)
    arrays = {f"{name}.{part}": getattr(matrix, part) for part in PARTS}
    return Packed(name, arrays, (matrix.kind, matrix.inputs, matrix.rotation))


def _rounded(numbers_NK: Array, kind: Kind) -> Weight:
    parts = _turned(numbers_NK)
    return joined([*map(quantise_w4, parts)]) if kind == "w4" else joined([*map(quantise_w8, parts)])


def _turned(numbers_NK: Array) -> Iterator[NDArray[np.float32]]:
    """A weight in float32, rotated, some rows at a time: memory may not have room for a whole head so often."""
    inputs = numbers_NK.shape[1]
    rows = max(1, AT_ONCE // inputs)
    for first in range(0, len(numbers_NK), rows):
        yield rotated(as_floats(numbers_NK[first : first + rows]), rotation_of(inputs))


def _pack_stored(parts: Sequence[Stored], join: Join, *, bias_N: Array | None) -> PackedMatrix:
    q_NK = join([p.q_NK for p in parts])
    if isinstance(parts[0], GroupedWeight):
        grouped = [p for p in parts if isinstance(p, GroupedWeight)]
        minima = [p.minimum_NG for p in grouped if p.minimum_NG is not None]
        scale_NG = join([p.scale_NG for p in grouped])
        whole = GroupedWeight(grouped[0].kind, q_NK, scale_NG, join(minima) if minima else None)
        return pack_grouped(whole, bias_N=bias_N)
    plain = [p for p in parts if not isinstance(p, GroupedWeight)]
    scale_N, rotation = join([p.scale_N[:, None] for p in plain])[:, 0], rotation_of(q_NK.shape[1])
    groups = [p.group_NG for p in plain if isinstance(p, Int4Weight)]
    if groups:
        return pack_w4(q_NK, join(groups), scale_N, bias_N=bias_N, rotation=rotation)
    return pack_w8(q_NK, scale_N, bias_N=bias_N, rotation=rotation)


def _whole(weights: Weights, name: str) -> Array:
    stored = weights.quantised(name)
    return stored.dense() if isinstance(stored, GroupedWeight) else weights.numbers(name)


def _stacked(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def as_floats(numbers: Array) -> NDArray[np.float32]:
    """Numbers, or bf16 as its bits, as float32."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)


def as_bf16(numbers: Array) -> NDArray[np.uint16]:
    """Numbers as the bits of bf16, rounded to nearest, ties to even."""
    if numbers.dtype == np.uint16:
        return numbers
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    return ((bits + (bits >> 16 & 1) + 0x7FFF) >> 16).astype(np.uint16)


def padded_row(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector with zeros up to the kernels' padding."""
    whole = np.zeros(wide(len(values)), dtype=np.float32)
    whole[: len(values)] = values
    return whole


def collect(config: DecoderConfig, pieces: Iterator[Packed]) -> PackedModel:
    """A packed model in memory."""
    model = PackedModel(config=config, kinds={}, inputs={}, rotations={}, arrays={})
    for piece in pieces:
        model.arrays.update(piece.arrays)
        if piece.matrix is not None:
            model.kinds[piece.name], model.inputs[piece.name], model.rotations[piece.name] = piece.matrix
    return model

"""Linear layers whose weights were packed once for a CPU.   Axes: T tokens, N outputs, D inputs.

fp16   weights in fp16, products and sums in fp32 (FBGEMM): the fastest there is on AVX2, for one row and for many.
bf16   weights in bf16 blocks (oneDNN), activations in bf16: where the CPU multiplies bf16 itself (AMX, AVX512-BF16).
plain  weights as they are, in the activations' type.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn.layers import Attention, GatedMLP
from octavo.nn.moe import SparseMLP

Kind = Literal["fp16", "bf16", "plain"]
BLOCK_ROWS = 16_384  # of a weight packed at once: FBGEMM packs from fp32, so this bounds the memory a head needs
FP16_MAX = 65_504.0


class Fp16Linear(nn.Module):
    """x @ W.T + b with W in fp16. x and result fp32. Raises nothing: `pack` looked at the range of W."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        rows = [weight_ND[i : i + BLOCK_ROWS] for i in range(0, len(weight_ND), BLOCK_ROWS)]
        prepack: Callable[[Tensor, Tensor | None], object] = torch.ops.quantized.linear_prepack_fp16
        self.blocks = [prepack(part.float().contiguous(), None) for part in rows]
        self.bias_N = None if bias_N is None else bias_N.float()

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, N)."""
        parts = [torch.ops.quantized.linear_dynamic_fp16(x_TD, block) for block in self.blocks]
        out_TN = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out_TN if self.bias_N is None else out_TN.add_(self.bias_N)


class Bf16Linear(nn.Module):
    """x @ W.T + b with W in oneDNN's own blocks. x and result bf16."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_ND.bfloat16().contiguous(), 16)
        self.bias_N = None if bias_N is None else bias_N.bfloat16()

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, N)."""
        return torch.ops.mkldnn._linear_pointwise(x_TD, self.packed, self.bias_N, "none", [], "")


class PlainLinear(nn.Module):
    """x @ W.T + b with W as it came."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        self.weight_ND, self.bias_N = weight_ND, bias_N

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, N)."""
        bias_N = None if self.bias_N is None else self.bias_N.to(x_TD.dtype)
        return F.linear(x_TD, self.weight_ND.to(x_TD.dtype), bias_N)


KINDS: dict[Kind, tuple[type[nn.Module], torch.dtype]] = {  # kind -> layer, type of the activations
    "fp16": (Fp16Linear, torch.float32),
    "bf16": (Bf16Linear, torch.bfloat16),
    "plain": (PlainLinear, torch.float32),
}


def pack(weight_ND: Tensor, bias_N: Tensor | None, *, kind: Kind) -> nn.Module:
    """A linear layer of this kind. A weight that fp16 cannot hold stays as it is: never a silently clipped one."""
    if kind == "fp16" and not weight_ND.abs().amax() <= FP16_MAX:
        kind = "plain"
    return KINDS[kind][0](weight_ND, bias_N)


@cache
def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself. Where it does not, torch does it by the way, a hundred times slower than
    float32: nobody wants that."""
    native: Callable[[], bool] = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return native()


@cache
def best_kind() -> Kind:
    """The fastest kind that this CPU runs, and runs right: each is tried on a small product first."""
    weight_ND, x_TD = torch.linspace(-1, 1, 64 * 96).view(64, 96), torch.linspace(-1, 1, 3 * 96).view(3, 96)
    wanted_TN = F.linear(x_TD, weight_ND)
    kinds: list[Kind] = ["bf16", "fp16"] if multiplies_bf16() else ["fp16"]
    for kind in kinds:
        layer, dtype = KINDS[kind]
        try:
            found_TN = layer(weight_ND, None)(x_TD.to(dtype)).float()
        except (RuntimeError, AttributeError, NotImplementedError):
            found_TN = torch.full_like(wanted_TN, torch.nan)  # this build of torch has no such kernel: not this kind
        if torch.allclose(found_TN, wanted_TN, atol=0.2, rtol=0.02):
            return kind
    return "plain"


class Group(NamedTuple):
    """Linears that are packed as one: `parts` are their names, in order; the layer goes to `parent.attribute`."""

    parts: tuple[str, ...]
    parent: nn.Module
    attribute: str


class Packing:
    """Takes a model's weights one by one as a file is read, and packs each group once it is whole.

    Give it to `load_weights` as `place`: it answers True for a tensor it took. At most one group waits unpacked, where
    the weights come in the order of the model's layers.
    """

    def __init__(self, model: nn.Module, *, kind: Kind, tied: bool) -> None:
        """tied: the head, `model.lm_head`, is packed from the embedding."""
        self.kind: Kind = kind
        self.model, self.tied = model, tied
        self.groups = {part: group for group in groups_of(model) for part in group.parts}
        self.modules = dict(model.named_modules())
        self.waiting: dict[str, Tensor] = {}

    def __call__(self, name: str, tensor: Tensor) -> bool:
        """Whether `tensor` was taken."""
        owner, _, leaf = name.rpartition(".")
        module = self.modules.get(owner)
        if isinstance(module, nn.Embedding):
            if self.tied:
                self.model.lm_head = pack(tensor, None, kind=self.kind)
            fits = tensor.dtype.itemsize > 2 and bool(tensor.abs().amax() <= FP16_MAX)  # else it stays as it is
            kept = tensor.half() if fits else tensor
            module.weight = nn.Parameter(kept, requires_grad=False)
            return True
        moe = self.modules.get(owner.rpartition(".")[0])
        if isinstance(moe, SparseMLP) and leaf in ("gate_up_proj", "down_proj"):
            return self._experts(moe, leaf, tensor)
        group = self.groups.get(owner)
        if group is None:
            return False
        self.waiting[name] = tensor.clone() if len(group.parts) > 1 else tensor
        self._finish(group)
        return True

    def _experts(self, moe: SparseMLP, leaf: str, weight_END: Tensor) -> bool:
        layers = nn.ModuleList(pack(weight_ND, None, kind=self.kind) for weight_ND in weight_END)
        moe.packed[leaf] = layers
        if len(moe.packed) == 2:
            del moe.experts
        return True

    def _finish(self, group: Group) -> None:
        """Pack a group all of whose weights and biases have come."""
        modules = [self.modules[part] for part in group.parts]
        names = [f"{p}.{leaf}" for p, m in zip(group.parts, modules, strict=True) for leaf, _ in m.named_parameters()]
        if any(name not in self.waiting for name in names):
            return
        taken = {name: self.waiting.pop(name) for name in names}
        weight_ND = _join(taken[f"{part}.weight"] for part in group.parts)
        biases = [taken[name] for name in names if name.endswith(".bias")]
        packed = pack(weight_ND, _join(biases) if biases else None, kind=self.kind)
        for part in group.parts:
            delattr(group.parent, part.rpartition(".")[2])
        setattr(group.parent, group.attribute, packed)


def _join(tensors: Iterable[Tensor]) -> Tensor:
    several = list(tensors)
    return several[0] if len(several) == 1 else torch.cat(several)


def groups_of(model: nn.Module) -> Sequence[Group]:
    """What is packed in a model: q, k, v as one; gate and up as one; every other linear alone, but for routers."""
    found: list[Group] = []
    joined: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            found.append(Group(tuple(f"{name}.{x}_proj" for x in "qkv"), module, "qkv"))
        elif isinstance(module, GatedMLP):
            found.append(Group((f"{name}.gate_proj", f"{name}.up_proj"), module, "gate_up"))
        elif isinstance(module, SparseMLP):
            joined.add(f"{name}.gate")  # a router's choice must not depend on packing
    joined |= {part for group in found for part in group.parts}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in joined:
            parent, _, leaf = name.rpartition(".")
            found.append(Group((name,), model.get_submodule(parent), leaf))
    return found

"""The decoder's forward and backward pass on a CPU, written out in our kernels.

The same arithmetic as `Decoder` under autograd, which stays the reference: products of matrices by torch, all between
them by `nn.kernels.training`. The residual stream is float32; activations and the products are in the type of the
working copies of the weights, float32 or bfloat16.

Axes: T tokens, D model, H query heads, J those of keys and values too, K head width, V vocabulary."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.models.backprop_mlp import Gradients, MLPPass, SparseKept, mlp_pass, together
from octavo.models.decoder import Decoder, Layer
from octavo.nn.context import Length, positions
from octavo.nn.kernels.training import LANES, MOST_HEAD_WIDTH, Documents, TrainingKernels
from octavo.nn.layers import GatedMLP, RMSNorm
from octavo.nn.moe import Experts, Routed, SparseMLP
from octavo.nn.rotate import rotation

LEAVES = (nn.Linear, nn.Embedding, RMSNorm, nn.Identity, Experts)


def unsupported(model: Decoder) -> str | None:
    """Why a model cannot go this way, None where it can."""
    c = model.config
    if c.heads.qkv_bias or c.heads.out_bias or c.mlp_bias:
        return "its linear layers have biases"
    widths = (c.heads.width, c.heads.head_width, c.inner, c.moe.inner if c.moe else c.inner)
    if any(width % LANES for width in widths) or c.heads.head_width > MOST_HEAD_WIDTH:
        return f"the kernels want widths that are multiples of {LANES}, found {widths}"
    if any(type(p) is not nn.Parameter or p.dtype != torch.float32 or p.device.type != "cpu" or not p.requires_grad
           for p in model.parameters()):  # fmt: skip
        return "it has parameters that are frozen, divided among machines, not float32, or not on the CPU"
    for module in model.modules():
        if len(list(module.children())) == 0 and type(module) not in LEAVES:
            return f"it has a {type(module).__name__}"
    return None


Balance = dict[int, Tensor]


class LayerWeights(NamedTuple):
    """Working copies of a layer's matrices: queries, keys and values as one."""

    qkv: Tensor
    out: Tensor
    mlp: MLPPass


class Kept(NamedTuple):
    """What a layer's backward pass needs of its forward pass."""

    x_TD: Tensor
    normed_TD: Tensor
    qkv_TJK: Tensor
    heads_THK: Tensor
    size_HT: Tensor
    middle_TD: Tensor
    middle_normed_TD: Tensor
    mlp: Any


class Passes:
    """Forward and backward passes through one state of a model's weights; any number, also at once in several threads.

    dtype        of activations and products
    checkpoint   keep only what goes into a layer, and compute the rest again on the way back
    """

    def __init__(self, model: Decoder, kernels: TrainingKernels, *, dtype: torch.dtype, checkpoint: bool) -> None:
        """Takes working copies of all weights."""
        self.model, self.kernels, self.dtype, self.checkpoint = model, kernels, dtype, checkpoint
        self.shape, self.eps = model.config.heads, model.config.eps
        with torch.no_grad():
            self.weights = [self._copies(layer) for layer in model.model.layers]
            self.head_VD = model.head_weight.detach().to(dtype)

    def _copies(self, layer: nn.Module) -> LayerWeights:
        assert isinstance(layer, Layer) and isinstance(layer.mlp, (GatedMLP, SparseMLP))
        a = layer.self_attn
        return LayerWeights(
            together((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight), self.dtype),
            a.o_proj.weight.detach().to(self.dtype),
            mlp_pass(layer.mlp, self.kernels, dtype=self.dtype),
        )

    @torch.no_grad()
    def run(self, tokens_T: Tensor, lengths: Sequence[Length]) -> "Run":
        """Forward pass over documents end to end."""
        return Run(self, tokens_T, lengths)


class Run:
    """One forward pass.   hidden_TD: after the last norm, in the working type."""

    def __init__(self, passes: Passes, tokens_T: Tensor, lengths: Sequence[Length]) -> None:
        self.passes, self.tokens_T = passes, tokens_T
        model = passes.model
        self.documents = Documents(passes.shape, lengths, *rotation(model.model.rope, positions(lengths)))
        self.kept: list[Kept | Tensor] = []
        self.routed: dict[int, Routed] = {}  # layer -> where its tokens went
        x_TD, added_TD = F.embedding(tokens_T, model.model.embed_tokens.weight), None
        for index in range(len(passes.weights)):
            kept, added_TD = self._layer(index, x_TD, added_TD)
            self.kept.append(kept.x_TD if passes.checkpoint else kept)
            if isinstance(kept.mlp, SparseKept):
                self.routed[index] = kept.mlp.routing.summed()
            x_TD = kept.middle_TD
        self.x_TD, self.hidden_TD = self._norm(x_TD, added_TD, model.model.norm)

    def _norm(self, x_TD: Tensor, added_TD: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        return self.passes.kernels.norm(x_TD, added_TD, norm.weight, eps=norm.eps, dtype=self.passes.dtype)

    def _norms(self, index: int) -> tuple[Tensor, Tensor] | None:
        attention = self._module(index).self_attn
        if isinstance(attention.q_norm, RMSNorm) and isinstance(attention.k_norm, RMSNorm):
            return attention.q_norm.weight, attention.k_norm.weight
        return None

    def _module(self, index: int) -> Layer:
        layer = self.passes.model.model.layers[index]
        assert isinstance(layer, Layer)
        return layer

    def _layer(self, index: int, x_TD: Tensor, added_TD: Tensor | None) -> tuple[Kept, Tensor]:
        """What is kept, and what the layer's MLP adds to the residual stream."""
        passes, module, w = self.passes, self._module(index), self.passes.weights[index]
        kernels = passes.kernels
        x_TD, normed_TD = self._norm(x_TD, added_TD, module.input_layernorm)
        qkv_TJK = (normed_TD @ w.qkv.T).unflatten(1, (-1, passes.shape.head_width))
        heads_THK, size_HT = kernels.attend(qkv_TJK, self.documents, self._norms(index))
        added_TD = heads_THK.flatten(1) @ w.out.T
        middle_TD, middle_normed_TD = self._norm(x_TD, added_TD, module.post_attention_layernorm)
        mlp, made_TD = w.mlp.forward(middle_normed_TD)
        return Kept(x_TD, normed_TD, qkv_TJK, heads_THK, size_HT, middle_TD, middle_normed_TD, mlp), made_TD

    @torch.no_grad()
    def back(self, dhidden_TD: Tensor, *, balance: Balance | None = None) -> Gradients:
        """Gradients of all parameters but an untied head, where the one by `hidden_TD` is given. Only once.

        balance   layer -> the gradient by the chances of each expert, the same for every token
        """
        body, passes = self.passes.model.model, self.passes
        found: Gradients = {"model.norm.weight": torch.zeros_like(body.norm.weight)}
        dx_TD, low_TD = passes.kernels.norm_back(
            dhidden_TD, self.x_TD, body.norm.weight, eps=passes.eps, dx_TD=None,
            dweight_D=found["model.norm.weight"],
        )  # fmt: skip
        for index in reversed(range(len(passes.weights))):
            kept = self.kept.pop()
            if isinstance(kept, Tensor):
                kept, _ = self._layer(index, kept, None)
            balance_E = None if balance is None else balance.get(index)
            dx_TD, low_TD = self._layer_back(index, kept, dx_TD, low_TD, found, balance_E=balance_E)
        found["model.embed_tokens.weight"] = torch.zeros_like(body.embed_tokens.weight).index_add_(
            0, self.tokens_T, dx_TD
        )
        return found

    def _layer_back(self, index: int, kept: Kept, dx_TD: Tensor, low_TD: Tensor, found: Gradients, *,
                    balance_E: Tensor | None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """dx goes on in place; low is dx in the working type."""
        passes, module, w = self.passes, self._module(index), self.passes.weights[index]
        kernels, at = passes.kernels, f"model.layers.{index}"
        dnormed_TD, of_mlp = w.mlp.back(kept.mlp, kept.middle_normed_TD, low_TD, balance_E=balance_E)
        found.update({f"{at}.mlp.{name}": grad for name, grad in of_mlp.items()})
        found[f"{at}.post_attention_layernorm.weight"] = after_D = torch.zeros_like(module.input_layernorm.weight)
        dx_TD, low_TD = kernels.norm_back(
            dnormed_TD, kept.middle_TD, module.post_attention_layernorm.weight, eps=passes.eps, dx_TD=dx_TD,
            dweight_D=after_D,
        )  # fmt: skip
        found[f"{at}.self_attn.o_proj.weight"] = kernels.outer(low_TD, kept.heads_THK.flatten(1))
        norms, dnorms = self._norms(index), None
        if norms is not None:
            dnorms = torch.zeros_like(norms[0]), torch.zeros_like(norms[1])
            found[f"{at}.self_attn.q_norm.weight"], found[f"{at}.self_attn.k_norm.weight"] = dnorms
        dheads_THK = (low_TD @ w.out).view(kept.heads_THK.shape)
        dqkv = kernels.attend_back(
            dheads_THK, kept.qkv_TJK, self.documents, norms, made=(kept.heads_THK, kept.size_HT), dnorm_K=dnorms
        ).flatten(1)
        dweights = kernels.outer(dqkv, kept.normed_TD).split([len(p) for p in self._projections(module)])
        for name, dweight in zip("qkv", dweights, strict=True):
            found[f"{at}.self_attn.{name}_proj.weight"] = dweight
        found[f"{at}.input_layernorm.weight"] = before_D = torch.zeros_like(module.input_layernorm.weight)
        return kernels.norm_back(
            dqkv @ w.qkv, kept.x_TD, module.input_layernorm.weight, eps=passes.eps, dx_TD=dx_TD, dweight_D=before_D
        )

    @staticmethod
    def _projections(module: Layer) -> tuple[Tensor, Tensor, Tensor]:
        a = module.self_attn
        return a.q_proj.weight, a.k_proj.weight, a.v_proj.weight

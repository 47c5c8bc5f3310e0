"""A model -> its quantised weights, layer by layer, and how far they are from it.

One decoder layer at a time is in memory as float32. Texts go through the layers: through the model as it is, and
through what has been quantised so far, whose activations calibrate what comes next.

Axes: T tokens, D model, N outputs, K inputs, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.core.errors import CheckpointError
from octavo.models.decoder import Decoder, Layer
from octavo.nn.linear import groups_of
from octavo.nn.logprobs import divergence, surprise
from octavo.nn.moe import SparseMLP
from octavo.nn.packed import rotated, rotation_of
from octavo.nn.quant import Floats, Int8Weight, Weight, joined, quantise_w4, quantise_w8, round_w4, round_w8, split
from octavo.nn.quantised import BLOCK_ROWS, QuantisedLinear, round_rows
from octavo.weights.gptq import gptq_w4, gptq_w8
from octavo.weights.load import FUSED, MEMBERS
from octavo.weights.quantised_file import plain
from octavo.weights.stream import Stream

Format = Literal["w8", "w4"]
Method = Literal["rtn", "mse", "gptq"]
ROUND = {"w8": round_w8, "w4": round_w4}
SEARCH = {"w8": quantise_w8, "w4": quantise_w4}
GPTQ = {"w8": gptq_w8, "w4": gptq_w4}
ORDER = ("q_proj", "o_proj", "gate_proj", "down_proj")  # of a layer's groups, by the first linear of each
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a model is quantised.

    method    rtn: round to nearest; mse: scales of least squared error, weighted with what calibration texts show where
              there are any; gptq: with error feedback, needs calibration texts
    """

    format: Format = "w4"
    method: Method = "mse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A quantised model beside the model itself, on held-out texts. In nats.

    kl_T                  KL(model || quantised) after each token
    surprise_T, plain_T   -log p of each token but the first of a text, under the quantised model and the model
    """

    kl_T: Tensor
    surprise_T: Tensor
    plain_T: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantised:
    """What `quantise` makes.

    weights    by official name, rotated; a head that is the embedding is not named;   rest   all other parameters
    measured   None without held-out texts
    """

    recipe: Recipe
    weights: dict[str, Weight]
    rest: dict[str, Tensor]
    measured: Measured | None = None


@torch.inference_mode()
def quantise(model: Decoder, recipe: Recipe, *, calibration: Sequence[Tensor] = (), held_out: Sequence[Tensor] = (),
             after: Callable[[int], None] = lambda layers: None) -> Quantised:  # fmt: skip
    """Quantise every linear but routers; embedding and head always as w8. The model stays as it is.

    Weights are rotated first, as the kernels rotate what they multiply (`nn.packed.rotated`).

    calibration, held_out   token ids (T,) of each text;   after   is told how many layers are done
    Raises CheckpointError for weights that are not finite.
    """
    assert calibration or recipe.method != "gptq", "this recipe needs calibration texts"
    rope, embedding_VD = model.config.rope, model.model.embed_tokens.weight
    work = _Work(model, recipe)
    true = Stream([embedding_VD[tokens_T].float() for tokens_T in held_out], rope=rope)
    ours = Stream([work.embedded(tokens_T) for tokens_T in held_out], rope=rope)
    shown = Stream([work.embedded(tokens_T) for tokens_T in calibration], rope=rope)
    for index, original in enumerate(model.model.layers):
        layer = copy.deepcopy(original).float()
        assert isinstance(layer, Layer)
        true.advance(layer)
        work.quantise_layer(layer, shown, prefix=f"model.layers.{index}.")
        ours.advance(layer)
        shown.advance(layer)
        after(index + 1)
    measured = work.measure(true, ours, held_out) if held_out else None
    return Quantised(recipe=recipe, weights=work.weights, rest=work.rest, measured=measured)


class _Work:
    """A quantisation under way."""

    def __init__(self, model: Decoder, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.embedding = self.head = _table(model.model.embed_tokens.weight, name=EMBEDDING)
        self.weights: dict[str, Weight] = {EMBEDDING: self.embedding}
        self.rest = {NORM: model.model.norm.weight.detach().float()}
        if model.lm_head is not None:
            self.weights[HEAD] = self.head = _table(model.lm_head.get_parameter("weight"), name=HEAD)

    def embedded(self, tokens_T: Tensor) -> Tensor:
        """Rows of the embedding (T, D), float32."""
        table, rows = self.embedding, tokens_T.numpy()
        return torch.from_numpy(plain(Int8Weight(table.q_NK[rows], table.scale_N[rows])))

    def quantise_layer(self, layer: Layer, shown: Stream, *, prefix: str) -> None:
        """Quantise a layer's linears in place, in the order in which they compute, each after those before it."""
        before = dict(layer.named_parameters())
        groups = {group.parts[0].rpartition(".")[2]: group for group in groups_of(layer)}
        for parts, parent, attribute in (groups[first] for first in ORDER if first in groups):
            linears = [layer.get_submodule(part) for part in parts]
            weights = [linear.get_parameter("weight").detach() for linear in linears]
            biases = [bias.detach() for linear in linears for bias in linear.parameters() if bias.ndim == 1]
            hessian_KK = self._hessian(shown.reaching(layer, linears[0]))
            weight = self._weight(torch.cat(weights), hessian_KK, name=f"{prefix}{parts[0]}")
            for part, rows in zip(parts, split(weight, [len(each) for each in weights]), strict=True):
                self.weights[f"{prefix}{part}.weight"] = rows
                delattr(parent, part.rpartition(".")[2])
            setattr(parent, attribute, QuantisedLinear(weight, torch.cat(biases) if biases else None))
        if isinstance(layer.mlp, SparseMLP):
            self._experts(layer.mlp, prefix=f"{prefix}mlp.experts.")
        for name, parameter in before.items():
            if f"{prefix}{name}" not in self.weights and FUSED.fullmatch(f".{name}") is None:
                self.rest[f"{prefix}{name}"] = parameter.detach()

    def measure(self, true: Stream, ours: Stream, texts: Sequence[Tensor]) -> Measured:
        """Compare what came out of the last layer, through the last norm and the head, text by text."""
        kl, surprises, true_surprises = list[Tensor](), list[Tensor](), list[Tensor]()
        head_VD = (self.model.lm_head or self.model.model.embed_tokens).get_parameter("weight").float()
        head = QuantisedLinear(self.head, None)
        for true_TD, our_TD, tokens_T in zip(true.hidden, ours.hidden, texts, strict=True):
            true_TV = F.linear(self.model.model.norm(true_TD), head_VD)
            our_TV = head(self.model.model.norm(our_TD))
            kl.append(divergence(true_TV, our_TV))
            surprises.append(surprise(our_TV[:-1], tokens_T[1:]))
            true_surprises.append(surprise(true_TV[:-1], tokens_T[1:]))
        return Measured(kl_T=torch.cat(kl), surprise_T=torch.cat(surprises), plain_T=torch.cat(true_surprises))

    def _experts(self, moe: SparseMLP, *, prefix: str) -> None:
        """Experts by their weights alone: few texts reach every one of them."""
        for leaf, members in MEMBERS.items():
            layers = nn.ModuleList()
            for expert, weight_NK in enumerate(moe.experts.get_parameter(leaf)):
                weight = self._weight(weight_NK, None, name=f"{prefix}{expert}.{leaf}")
                rows = [len(weight_NK) // len(members)] * len(members)
                for member, part in zip(members, split(weight, rows), strict=True):
                    self.weights[f"{prefix}{expert}.{member}.weight"] = part
                layers.append(QuantisedLinear(weight, None))
            moe.packed[leaf] = layers
        del moe.experts

    def _hessian(self, shown: Iterator[Tensor]) -> Tensor | None:
        """The sum of x x^T (K, K) over calibration tokens, rotated and rounded; None where it is of no use."""
        if self.recipe.method == "rtn":
            return None
        total_KK: Tensor | None = None
        for x_TK in shown:
            q_TK, scale_T = round_rows(x_TK)
            q_TK *= scale_T[:, None]
            total_KK = q_TK.T @ q_TK if total_KK is None else total_KK.addmm_(q_TK.T, q_TK)
        return total_KK

    def _weight(self, weight_NK: Tensor, hessian_KK: Tensor | None, *, name: str) -> Weight:
        kind, turned_NK = self.recipe.format, _turned(weight_NK, name=name)
        if self.recipe.method == "rtn":
            return ROUND[kind](turned_NK)
        if self.recipe.method == "gptq" and hessian_KK is not None:
            return GPTQ[kind](torch.from_numpy(turned_NK), hessian_KK)
        importance_K = None if hessian_KK is None else hessian_KK.diagonal().numpy()
        return SEARCH[kind](turned_NK, importance_K=importance_K)


def _table(weight_VD: Tensor, *, name: str) -> Int8Weight:
    """Embedding or head, block by block."""
    return joined([quantise_w8(_turned(part_ND, name=name)) for part_ND in weight_VD.detach().split(BLOCK_ROWS)])


def _turned(weight_NK: Tensor, *, name: str) -> Floats:
    """A weight as it is multiplied with rotated inputs."""
    if not weight_NK.isfinite().all():
        raise CheckpointError(f"{name} holds numbers that are not finite: download the model again.")
    return rotated(weight_NK.float().numpy(), rotation_of(weight_NK.shape[1]))

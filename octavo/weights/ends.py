"""The two ends of a model, always in w8: the embedding, and the last norm with the head.

Axes: T tokens, D model, N rows of a block, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.core.errors import CheckpointError
from octavo.models.decoder import Decoder, Layer
from octavo.nn.layers import RMSNorm
from octavo.nn.quant import Int8Weight, joined, quantise_w8
from octavo.nn.quantised import BLOCK_ROWS
from octavo.weights.balance import loudness, scales
from octavo.weights.rotate import turned
from octavo.weights.stream import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """A quantised embedding and head, and the norm before the head.

    embedding   None: its rows are the head's, times `columns_D`, so that a tied model keeps one table
    """

    embedding: Int8Weight | None
    columns_D: Tensor
    norm: RMSNorm
    head: Int8Weight

    def embedded(self, tokens_T: Tensor) -> Tensor:
        """Rows of the embedding (T, D), float32."""
        table = self.head if self.embedding is None else self.embedding
        scale_T = torch.from_numpy(table.scale_N)[tokens_T]
        return torch.from_numpy(table.integers())[tokens_T] * scale_T[:, None] * self.columns_D


def quantise_ends(model: Decoder, *, stream_DD: Tensor | None = None, texts: Sequence[Tensor] = ()) -> Ends:
    """stream_DD turns the residual stream, None: it stays;   texts   what the last norm gives is balanced with.

    Raises CheckpointError for weights that are not finite.
    """
    embedding, norm = model.model.embed_tokens.weight, copy.deepcopy(model.model.norm).float()
    head = embedding if model.lm_head is None else model.lm_head.get_parameter("weight")
    columns_D = torch.ones(len(norm.weight))
    if stream_DD is not None:
        gain_D = norm.weight.clone()
        norm.weight.fill_(1)
        return Ends(embedding=_table(embedding, stream_DD=stream_DD), columns_D=columns_D, norm=norm,
                    head=_table(head, stream_DD=stream_DD, gain_D=gain_D))  # fmt: skip
    if texts:
        columns_D = scales(loudness(norm(x_TD) for x_TD in _last_hidden(model, texts)))
        norm.weight.div_(columns_D)
    rows = _table(head, gain_D=columns_D)
    if head is embedding:
        return Ends(embedding=None, columns_D=1 / columns_D, norm=norm, head=rows)
    return Ends(embedding=_table(embedding), columns_D=torch.ones(len(columns_D)), norm=norm, head=rows)


def _last_hidden(model: Decoder, texts: Sequence[Tensor]) -> list[Tensor]:
    """What the last layer gives (T, D) for each text, with one layer at a time in float32."""
    stream = Stream([model.model.embed_tokens.weight[tokens_T].float() for tokens_T in texts], rope=model.config.rope)
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        stream.advance(copy.deepcopy(layer).float())
    return stream.hidden


def _table(weight_VD: Tensor, *, stream_DD: Tensor | None = None, gain_D: Tensor | None = None) -> Int8Weight:
    """Rows as w8, block by block, times gain, then turned."""
    parts = list[Int8Weight]()
    for block_ND in weight_VD.detach().split(BLOCK_ROWS):
        rows_ND = block_ND.float() if gain_D is None else block_ND.float() * gain_D
        if not rows_ND.isfinite().all():
            raise CheckpointError("The embedding or the head holds numbers that are not finite: download it again.")
        parts.append(quantise_w8((rows_ND if stream_DD is None else turned(rows_ND, stream_DD)).numpy()))
    return joined(parts)

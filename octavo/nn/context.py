"""Where keys and values live.   Axes: T tokens end to end, H query heads, G key/value heads, R = H/G, K head width,
L keys of one sequence, N pages of one sequence, S slots of all pages."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Context(Protocol):
    """What attention needs to know of the sequences in a flat token axis.   positions_T: int64, from 0 per sequence."""

    positions_T: Tensor

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Causal attention within each sequence; returns (T, H, K)."""
        ...


def attention(q_THK: Tensor, k_LGK: Tensor, v_LGK: Tensor, *, scale: float) -> Tensor:
    """Attention of the last T tokens of one sequence over all its L >= T tokens; returns (T, H, K).

    Grouped queries become a batch axis of R, over which keys and values are expanded without a copy.
    """
    tokens, heads, width = q_THK.shape
    keys, groups, _ = k_LGK.shape
    if tokens == 1:  # the R heads of a group stand on the query axis, so that keys are read once for all of them
        q_GRK, k_GLK, v_GLK = q_THK.view(groups, -1, width), k_LGK.transpose(0, 1), v_LGK.transpose(0, 1)
        return F.scaled_dot_product_attention(q_GRK[None], k_GLK[None], v_GLK[None], scale=scale).view(1, heads, width)
    q_RGTK = q_THK.view(tokens, groups, heads // groups, width).permute(2, 1, 0, 3)
    k_RGLK = k_LGK.transpose(0, 1).expand(heads // groups, -1, -1, -1)
    v_RGLK = v_LGK.transpose(0, 1).expand(heads // groups, -1, -1, -1)
    mask_TL = None
    if keys > tokens:
        mask_TL = torch.ones(tokens, keys, dtype=torch.bool, device=q_THK.device).tril(keys - tokens)
    out_RGTK = F.scaled_dot_product_attention(
        q_RGTK, k_RGLK, v_RGLK, attn_mask=mask_TL, is_causal=mask_TL is None, scale=scale
    )
    return out_RGTK.permute(2, 1, 0, 3).reshape(tokens, heads, width)


class PackedContext:
    """Whole documents end to end, nothing kept: training, and scoring in one pass."""

    def __init__(self, lengths: Sequence[int], *, device: torch.device | str = "cpu") -> None:
        """lengths: tokens of each document; their sum is T."""
        self.lengths = list(lengths)
        self.positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Each document attends to itself."""
        del layer
        parts = zip(*(x.split(self.lengths) for x in (q_THK, k_TGK, v_TGK)), strict=True)
        return torch.cat([attention(q, k, v, scale=scale) for q, k, v in parts])


class Pages:
    """Keys and values of all sequences, in pages. On a CPU the memory is taken as pages are first written."""

    def __init__(self, *, layers: int, pages: int, page_tokens: int, kv_heads: int, head_width: int,
                 dtype: torch.dtype, device: torch.device | str = "cpu") -> None:  # fmt: skip
        shape = (pages * page_tokens, kv_heads, head_width)
        self.page_tokens = page_tokens
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]  # each (S, G, K)
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """Store the keys and values of T tokens in their slots."""
        self.k[layer].index_copy_(0, slots_T, k_TGK.to(self.k[layer].dtype))
        self.v[layer].index_copy_(0, slots_T, v_TGK.to(self.v[layer].dtype))

    def copy(self, *, source: int, target: int, tokens: int) -> None:
        """The first `tokens` slots of one page go to another, in all layers."""
        at, to = source * self.page_tokens, target * self.page_tokens
        for x_SGK in (*self.k, *self.v):
            x_SGK[to : to + tokens] = x_SGK[at : at + tokens]

    def read(self, layer: int, pages_N: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Keys and values (N*P, G, K) of N pages: a view where they follow each other (a slice), else a copy."""
        k_SGK, v_SGK = self.k[layer], self.v[layer]
        if isinstance(pages_N, slice):
            slots = slice(pages_N.start * self.page_tokens, pages_N.stop * self.page_tokens)
            return k_SGK[slots], v_SGK[slots]
        paged = (-1, self.page_tokens, *k_SGK.shape[1:])
        k_LGK = k_SGK.view(paged).index_select(0, pages_N).flatten(0, 1)
        return k_LGK, v_SGK.view(paged).index_select(0, pages_N).flatten(0, 1)


def _page_index(pages: Sequence[int], device: torch.device | str) -> Tensor | slice:
    if list(pages) == list(range(pages[0], pages[0] + len(pages))):
        return slice(pages[0], pages[0] + len(pages))
    return torch.tensor(pages, device=device)


class PagedContext:
    """Chunks of running sequences: their earlier tokens lie in pages, the new ones are written there too.

    chunks   (new tokens, start position, page numbers covering 0 .. start + new - 1) per sequence
    """

    def __init__(self, pages: Pages, chunks: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        self.pages, size, device = pages, pages.page_tokens, pages.k[0].device
        positions = [torch.arange(start, start + new) for new, start, _ in chunks]
        slots = [
            torch.tensor(table)[p // size] * size + p % size for p, (_, _, table) in zip(positions, chunks, strict=True)
        ]
        self.positions_T, self.slots_T = torch.cat(positions).to(device), torch.cat(slots).to(device)
        self.new = [new for new, _, _ in chunks]
        self.keys = [start + new for new, start, _ in chunks]
        self.tables = [
            _page_index(table[: -(-keys // size)], device)
            for keys, (_, _, table) in zip(self.keys, chunks, strict=True)
        ]

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Write the new keys and values, then attend over all of each sequence, and over nothing else."""
        self.pages.write(layer, self.slots_T, k_TGK, v_TGK)
        parts: list[Tensor] = []
        for q, keys, table in zip(q_THK.split(self.new), self.keys, self.tables, strict=True):
            k_LGK, v_LGK = (x[:keys].to(q.dtype) for x in self.pages.read(layer, table))
            parts.append(attention(q, k_LGK, v_LGK, scale=scale))
        return torch.cat(parts)

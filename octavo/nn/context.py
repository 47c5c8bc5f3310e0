"""Where keys and values live.   Axes: T tokens end to end, H query heads, G key/value heads, R = H/G, K head width,
L keys of one sequence, B sequences that decode one token, S slots of all pages, P tokens per page."""

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
    if tokens == 1:
        return decode_attention(q_THK, k_LGK[None], v_LGK[None], mask_BL=None, scale=scale)
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


def decode_attention(q_BHK: Tensor, k_BLGK: Tensor, v_BLGK: Tensor, *, mask_BL: Tensor | None, scale: float) -> Tensor:
    """One query token per sequence over its keys; returns (B, H, K). mask: True where a key counts; None: all do.

    With one query the R heads of a group can stand on the query axis, so that keys are read once for all of them.
    """
    rows, heads, width = q_BHK.shape
    q_BGRK = q_BHK.view(rows, k_BLGK.shape[2], -1, width)
    mask = None if mask_BL is None else mask_BL[:, None, None, :]
    out_BGRK = F.scaled_dot_product_attention(
        q_BGRK, k_BLGK.transpose(1, 2), v_BLGK.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return out_BGRK.reshape(rows, heads, width)


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
        row, long, single = 0, [], []
        for new, start, table in chunks:
            (single if new == 1 else long).append((row, new, start + new, table[: -(-(start + new) // size)]))
            row += new
        if len(single) == 1:
            long, single = long + single, []
        self.long = [(row, new, keys, _page_index(table, device)) for row, new, keys, table in long]
        self.single_B = torch.tensor([row for row, *_ in single], device=device)
        if single:
            width = max(len(table) for *_, table in single)
            self.tables_N = torch.tensor([[*t, *[0] * (width - len(t))] for *_, t in single], device=device).flatten()
            keys_B = torch.tensor([keys for _, _, keys, _ in single], device=device)
            self.mask_BL = torch.arange(width * size, device=device) < keys_B[:, None]

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Write the new keys and values, then attend over all of each sequence."""
        self.pages.write(layer, self.slots_T, k_TGK, v_TGK)
        out_THK = torch.empty_like(q_THK)
        for row, new, keys, table in self.long:
            k_LGK, v_LGK = (x[:keys].to(q_THK.dtype) for x in self.pages.read(layer, table))
            out_THK[row : row + new] = attention(q_THK[row : row + new], k_LGK, v_LGK, scale=scale)
        if len(self.single_B):
            k_SGK, v_SGK = self.pages.read(layer, self.tables_N)
            rows = (len(self.single_B), -1, *k_SGK.shape[1:])
            k_BLGK, v_BLGK = k_SGK.view(rows).to(q_THK.dtype), v_SGK.view(rows).to(q_THK.dtype)
            q_BHK = q_THK[self.single_B]
            out_THK[self.single_B] = decode_attention(q_BHK, k_BLGK, v_BLGK, mask_BL=self.mask_BL, scale=scale)
        return out_THK

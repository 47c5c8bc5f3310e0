"""Where keys and values live.   Axes: T tokens end to end, H query heads, G key/value heads, R = H/G, K head width,
L keys of one sequence, N pages of one sequence, S slots of all pages, B sequences that are attended to together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 4  # sequences with one new token each; from so many on they are attended to together
TOGETHER = 1 << 13  # keys of sequences that are gathered at once


# Tokens of a document; of one that forks: of its trunk, then of each branch, all of which go on where the trunk ends
Length = int | tuple[int, ...]


class Context(Protocol):
    """What attention needs to know of the sequences in a flat token axis.   positions_T: int64, from 0 per sequence."""

    positions_T: Tensor

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Causal attention within each sequence; returns (T, H, K)."""
        ...


def attention(q_THK: Tensor, k_LGK: Tensor, v_LGK: Tensor, *, scale: float, mask_TL: Tensor | None = None) -> Tensor:
    """Attention of the last T tokens of one sequence over all its L >= T tokens; returns (T, H, K).

    Grouped queries become a batch axis of R, over which keys and values are expanded without a copy.
    mask_TL: who attends to whom, where that is not all before and itself
    """
    tokens, heads, width = q_THK.shape
    keys, groups, _ = k_LGK.shape
    if tokens == 1:  # the R heads of a group stand on the query axis, so that keys are read once for all of them
        q_GRK, k_GLK, v_GLK = q_THK.view(groups, -1, width), k_LGK.transpose(0, 1), v_LGK.transpose(0, 1)
        return F.scaled_dot_product_attention(q_GRK[None], k_GLK[None], v_GLK[None], scale=scale).view(1, heads, width)
    q_RGTK = q_THK.view(tokens, groups, heads // groups, width).permute(2, 1, 0, 3)
    k_RGLK = k_LGK.transpose(0, 1).expand(heads // groups, -1, -1, -1)
    v_RGLK = v_LGK.transpose(0, 1).expand(heads // groups, -1, -1, -1)
    if mask_TL is None and keys > tokens:
        mask_TL = torch.ones(tokens, keys, dtype=torch.bool, device=q_THK.device).tril(keys - tokens)
    out_RGTK = F.scaled_dot_product_attention(
        q_RGTK, k_RGLK, v_RGLK, attn_mask=mask_TL, is_causal=mask_TL is None, scale=scale
    )
    return out_RGTK.permute(2, 1, 0, 3).reshape(tokens, heads, width)


class PackedContext:
    """Whole documents end to end, nothing kept: training, and scoring in one pass."""

    def __init__(self, lengths: Sequence[Length], *, device: torch.device | str = "cpu") -> None:
        """lengths: of each document; their sum is T."""
        self.lengths = [length_tokens(length) for length in lengths]
        self.positions_T = positions(lengths).to(device)
        self.masks = [None if isinstance(length, int) else fork_mask(length).to(device) for length in lengths]

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Each document attends to itself, each of its branches to the trunk and to itself."""
        del layer
        parts = zip(*(x.split(self.lengths) for x in (q_THK, k_TGK, v_TGK)), self.masks, strict=True)
        return torch.cat([attention(q, k, v, scale=scale, mask_TL=mask) for q, k, v, mask in parts])


def length_parts(length: Length) -> tuple[int, ...]:
    """Tokens of a document's trunk, which is all of it where it does not fork, then of each branch."""
    return (length,) if isinstance(length, int) else length


def length_tokens(length: Length) -> int:
    """Tokens of a document."""
    return sum(length_parts(length))


def positions(lengths: Sequence[Length]) -> Tensor:
    """int64 (T), from 0 in each document, from the trunk's end in each branch."""
    spans = list[tuple[int, int]]()  # how many tokens, the first one's position
    for length in lengths:
        trunk, *branches = length_parts(length)
        spans += [(trunk, 0), *((branch, trunk) for branch in branches)]
    counts, firsts = torch.tensor(spans).view(-1, 2).unbind(1)
    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) - (starts - firsts).repeat_interleave(counts)


def fork_mask(length: tuple[int, ...]) -> Tensor:
    """bool (T, T) of one document: its trunk and branches are causal, and a branch sees the trunk and no other."""
    trunk, *branches = length
    mask_TT = torch.ones(sum(length), sum(length), dtype=torch.bool).tril()
    for first, end in pairwise(accumulate(branches, initial=trunk)):
        mask_TT[end:, first:end] = False
    return mask_TT


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


@dataclass(frozen=True, slots=True, eq=False)
class Abreast:
    """Sequences with one new token each, of like lengths, padded to the longest.

    rows_B     which tokens;   slots_BL   where their keys lie, padded with the first one's
    mask_BL    which keys are their own
    """

    rows_B: Tensor
    slots_BL: Tensor
    mask_BL: Tensor

    def attend(self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, *, scale: float) -> Tensor:
        """Attention of the B tokens; returns (B, H, K). A group's heads stand on the query axis."""
        size, keys = self.slots_BL.shape
        heads, width, groups = q_THK.shape[1], q_THK.shape[2], k_SGK.shape[1]
        q_BGRK = q_THK[self.rows_B].view(size, groups, -1, width)
        k_BGLK, v_BGLK = (
            x.index_select(0, self.slots_BL.flatten()).view(size, keys, groups, width).transpose(1, 2).to(q_THK.dtype)
            for x in (k_SGK, v_SGK)
        )
        mask = self.mask_BL[:, None, None]
        return F.scaled_dot_product_attention(q_BGRK, k_BGLK, v_BGLK, attn_mask=mask, scale=scale).view(
            size, heads, width
        )


def _abreast(rows: Sequence[int], chunks: Sequence[tuple[int, int, Sequence[int]]], *, pages: int,
             device: torch.device | str) -> list[Abreast]:  # fmt: skip
    """Tokens `rows`, each the only new one of its chunk, in groups of like lengths.   pages: tokens of a page"""
    order = sorted(range(len(rows)), key=lambda i: chunks[i][1])
    groups, first = list[Abreast](), 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * (chunks[order[last]][1] + 1) <= TOGETHER:
            last += 1
        part, longest = order[first:last], chunks[order[last - 1]][1] + 1
        count = -(-longest // pages)
        table_BN = torch.tensor(
            [[*chunks[i][2][:count], *[chunks[i][2][0]] * (count - len(chunks[i][2]))] for i in part]
        )
        own_BL = torch.arange(longest) < torch.tensor([[chunks[i][1] + 1] for i in part])
        slots_BL = (table_BN[:, :, None] * pages + torch.arange(pages)).flatten(1)[:, :longest]
        slots_BL = slots_BL.where(own_BL, table_BN[:, :1] * pages)
        rows_B = torch.tensor([rows[i] for i in part])
        groups.append(Abreast(rows_B.to(device), slots_BL.to(device), own_BL.to(device)))
        first = last
    return groups


class PagedContext:
    """Chunks of running sequences: their earlier tokens lie in pages, the new ones are written there too.

    chunks   (new tokens, start position, page numbers covering 0 .. start + new - 1) per sequence
    """

    def __init__(self, pages: Pages, chunks: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        self.pages, size, device = pages, pages.page_tokens, pages.k[0].device
        places = [
            (p, table[p // size] * size + p % size) for new, start, table in chunks for p in range(start, start + new)
        ]
        self.positions_T, self.slots_T = (torch.tensor(x, device=device) for x in zip(*places, strict=True))
        firsts = [0, *accumulate(new for new, _, _ in chunks)]
        singles = [i for i, (new, _, _) in enumerate(chunks) if new == 1]
        alone = singles if len(singles) >= FEW else []
        self.abreast = _abreast([firsts[i] for i in alone], [chunks[i] for i in alone], pages=size, device=device)
        self.apart = [  # rows, number of keys, pages
            (slice(firsts[i], firsts[i + 1]), start + new, _page_index(table[: -(-(start + new) // size)], device))
            for i, (new, start, table) in enumerate(chunks) if not alone or new > 1
        ]  # fmt: skip

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, *, scale: float) -> Tensor:
        """Write the new keys and values, then attend over all of each sequence, and over nothing else."""
        self.pages.write(layer, self.slots_T, k_TGK, v_TGK)
        out_THK = torch.empty_like(q_THK)
        for rows, keys, table in self.apart:
            k_LGK, v_LGK = (x[:keys].to(q_THK.dtype) for x in self.pages.read(layer, table))
            out_THK[rows] = attention(q_THK[rows], k_LGK, v_LGK, scale=scale)
        for some in self.abreast:
            out_THK[some.rows_B] = some.attend(q_THK, self.pages.k[layer], self.pages.v[layer], scale=scale)
        return out_THK

"""Attention does not depend on how a sequence is cut, mixed with others, or where its pages lie."""

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.nn.context import PackedContext, PagedContext, Pages

HEADS, GROUPS, WIDTH, SIZE = 6, 2, 8, 4


def random_qkv(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(tokens, HEADS, WIDTH), torch.randn(tokens, GROUPS, WIDTH), torch.randn(tokens, GROUPS, WIDTH)


def plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of one sequence as the formula has it, in fp64."""
    q, k, v = (
        q.double(),
        k.double().repeat_interleave(HEADS // GROUPS, 1),
        v.double().repeat_interleave(HEADS // GROUPS, 1),
    )
    score = torch.einsum("thk,lhk->htl", q, k) * 0.3
    hidden = torch.ones(len(q), len(q)).triu(1).bool()
    return torch.einsum("htl,lhk->thk", score.masked_fill(hidden, -torch.inf).softmax(-1), v).float()


@given(lengths=st.lists(st.integers(1, 21), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_packed_documents_do_not_see_each_other(lengths: list[int], seed: int):
    q, k, v = random_qkv(sum(lengths), seed)
    found = PackedContext(lengths).attend(0, q, k, v, scale=0.3)
    parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    torch.testing.assert_close(found, torch.cat([plainly(*part) for part in parts]), atol=1e-5, rtol=1e-5)


def test_the_beginning_of_a_page_is_copied_in_all_layers_and_nothing_else():
    pages = Pages(layers=2, pages=4, page_tokens=SIZE, kv_heads=GROUPS, head_width=WIDTH, dtype=torch.float32)
    for x in (*pages.k, *pages.v):
        x.normal_()
    before = [x.clone() for x in (*pages.k, *pages.v)]
    pages.copy(source=3, target=1, tokens=3)
    for x, was in zip((*pages.k, *pages.v), before, strict=True):
        assert torch.equal(x[SIZE : SIZE + 3], was[3 * SIZE : 3 * SIZE + 3])
        x[SIZE : SIZE + 3] = was[SIZE : SIZE + 3]
        assert torch.equal(x, was)


@given(trunk=st.integers(1, 9), branches=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_a_branch_is_as_it_were_alone_behind_the_trunk(trunk: int, branches: list[int], seed: int):
    q, k, v = random_qkv(trunk + sum(branches), seed)
    context = PackedContext([(trunk, *branches)])
    found = context.attend(0, q, k, v, scale=0.3)
    begin = trunk
    for branch in branches:
        own = [*range(trunk), *range(begin, begin + branch)]
        torch.testing.assert_close(found[own], plainly(q[own], k[own], v[own]))
        assert context.positions_T[own].tolist() == list(range(trunk + branch))
        begin += branch


@given(lengths=st.lists(st.integers(1, 21), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_paged_equals_plain_under_any_cutting_mixing_and_placement(lengths: list[int], seed: int):
    draw = random.Random(seed)
    sequences = [random_qkv(length, seed + i) for i, length in enumerate(lengths)]
    wanted = [plainly(*parts) for parts in sequences]
    pages = Pages(layers=1, pages=40, page_tokens=SIZE, kv_heads=GROUPS, head_width=WIDTH, dtype=torch.float32)
    pages.k[0].fill_(torch.nan)  # reading what nobody wrote shows
    pages.v[0].fill_(torch.nan)
    free = list(range(40)) if draw.random() < 0.3 else draw.sample(range(40), 40)
    tables = [[free.pop(0) for _ in range(-(-length // SIZE))] for length in lengths]
    done = [0] * len(lengths)
    while any(d < length for d, length in zip(done, lengths, strict=True)):
        left = [i for i, length in enumerate(lengths) if done[i] < length]
        who = draw.sample(left, draw.randint(1, len(left)))
        new = [min(draw.choice([1, 1, 3, 8]), lengths[i] - done[i]) for i in who]
        chunks = [(n, done[i], tables[i][: -(-(done[i] + n) // SIZE)]) for i, n in zip(who, new, strict=True)]
        context = PagedContext(pages, chunks)
        cuts = [slice(done[i], done[i] + n) for i, n in zip(who, new, strict=True)]
        assert context.positions_T.tolist() == [p for cut in cuts for p in range(cut.start, cut.stop)]
        q, k, v = (torch.cat([sequences[i][x][cut] for i, cut in zip(who, cuts, strict=True)]) for x in range(3))
        for i, cut, part in zip(who, cuts, context.attend(0, q, k, v, scale=0.3).split(new), strict=True):
            torch.testing.assert_close(part, wanted[i][cut], atol=1e-5, rtol=1e-5)
            done[i] = cut.stop

"""The pool of pages against a model of it that is slow and plain: what is found, who holds what, what goes first."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.free_pages import FreePages
from octavo.engine.pages import Node, PagePool, common

SIZE = 3


@dataclass
class Writer:
    """A sequence that writes its tokens into its pages."""

    tokens: list[int]
    pages: list[int] = field(default_factory=list)


class World:
    """A pool, what stands in its pages, and sequences that use it as the scheduler does. slots: page -> tokens."""

    def __init__(self, pages: int) -> None:
        self.pool = PagePool(pages=pages, page_tokens=SIZE)
        self.slots = [[-1] * SIZE for _ in range(pages)]
        self.live: list[Writer] = []

    def begin(self, tokens: list[int]) -> None:
        longest = max((common(path, tokens) for path in self.paths()), default=0)
        pages, part = self.pool.match(tokens)
        found = len(pages) * SIZE + (part.tokens if part else 0)
        assert found == longest and self.read(pages) == tokens[: len(pages) * SIZE]
        more = self.pool.take(-(-(len(tokens) + 1) // SIZE) - len(pages))
        if more is not None and part is not None:
            assert part.page not in more, "a page was taken while it was to be copied"
            self.slots[more[0]] = [*self.slots[part.page][: part.tokens], *[-1] * (SIZE - part.tokens)]
        if part is not None:
            self.pool.give([part.page])
        if more is None:
            return self.pool.give(pages)
        writer = Writer(tokens, pages + more)
        for position in range(found, len(tokens)):
            self.write(writer, position)
        assert self.read(writer.pages)[: len(tokens)] == tokens
        writer.pages[: len(tokens) // SIZE] = self.pool.publish(tokens, writer.pages[: len(tokens) // SIZE])
        self.live.append(writer)

    def go_on(self, writer: Writer, token: int) -> None:
        if len(writer.tokens) == len(writer.pages) * SIZE:
            more = self.pool.take(1, after=writer.pages[-1])
            if more is None:
                return
            writer.pages += more
        writer.tokens.append(token)
        self.write(writer, len(writer.tokens) - 1)
        full = len(writer.tokens) // SIZE
        writer.pages[:full] = self.pool.publish(writer.tokens, writer.pages[:full])

    def finish(self, writer: Writer) -> None:
        self.live.remove(writer)
        count = -(-len(writer.tokens) // SIZE)
        writer.pages[:count] = self.pool.publish(writer.tokens, writer.pages[:count])
        self.pool.give(writer.pages)

    def write(self, writer: Writer, position: int) -> None:
        page = writer.pages[position // SIZE]
        assert page not in self.pool.nodes, "a published page was written"
        self.slots[page][position % SIZE] = writer.tokens[position]

    def read(self, pages: list[int]) -> list[int]:
        return [token for page in pages for token in self.slots[page]]

    def paths(self) -> list[list[int]]:
        return [path_of(node) for node in self.pool.nodes.values()]

    def check(self) -> None:
        held = [page for writer in self.live for page in writer.pages]
        private = [page for page in held if page not in self.pool.nodes]
        assert sorted(private) == sorted(self.pool.private), "a private page has one owner"
        assert len(set(held)) + self.pool.unused == self.pool.size, "a page was lost, or is in two places"
        for page, node in self.pool.nodes.items():
            assert tuple(self.slots[page][: len(node.tokens)]) == node.tokens, "a published page has changed"
            assert node.users == held.count(page)
            assert not node.children or (len(node.tokens) == SIZE and node.users >= max(c.users for c in node.children))
        for writer in self.live:
            assert self.read(writer.pages)[: len(writer.tokens)] == writer.tokens


def path_of(node: Node) -> list[int]:
    return [*path_of(node.parent), *node.tokens] if node.parent else []


@given(st.integers(0, 1 << 30), st.integers(4, 24))
def test_what_is_found_is_the_longest_there_is_and_nobody_writes_what_others_read(seed: int, pages: int):
    draw, world = random.Random(seed), World(pages)
    for _ in range(60):
        kind = draw.choice(["begin", "go on", "go on", "finish"])
        if kind == "begin":
            world.begin(draw.choices(range(2), k=draw.randint(1, 12)))
        elif world.live and kind == "go on":
            world.go_on(draw.choice(world.live), draw.randrange(2))
        elif world.live:
            world.finish(draw.choice(world.live))
        world.check()
    while world.live:
        world.finish(world.live[0])
    assert world.pool.unused == pages and not world.pool.private
    assert len(world.pool.take(pages) or ()) == pages and not world.pool.nodes  # all of them can be emptied


def test_the_longest_unused_goes_first_and_no_page_before_those_that_follow_it():
    world = World(8)
    for tokens in ([1] * 6, [2] * 6, [3] * 3):
        world.begin(tokens)
        world.finish(world.live[0])
    assert len(world.pool.nodes) == 5
    world.begin([1, 1, 1, 1, 0])  # the first is used again, but for its last page
    world.finish(world.live[0])
    gone = list[list[int]]()
    while world.pool.nodes:
        before = world.paths()
        world.pool.take(world.pool.free.count + 1)
        gone += [path for path in before if path not in world.paths()]
    assert gone == [[2] * 6, [2] * 3, [3] * 3, [1] * 6, [1, 1, 1, 1, 0], [1] * 3]


def test_nothing_is_emptied_where_it_would_not_be_enough():
    world = World(6)
    world.begin([1, 2, 3])
    world.begin([4, 5, 6, 7])
    world.finish(world.live[0])
    assert world.pool.take(5) is None and len(world.pool.nodes) == 2


def test_a_page_that_is_computed_twice_is_kept_once():
    world = World(8)
    world.begin([1, 2])
    world.begin([1, 2])
    for token in (3, 4):
        for writer in world.live:
            world.go_on(writer, token)
    first, second = world.live
    assert first.pages[0] == second.pages[0] and first.pages[1] != second.pages[1]
    world.check()


def test_a_part_gives_way_to_what_goes_on_from_it():
    world = World(8)
    world.begin([1, 2, 3, 4])
    world.finish(world.live[0])
    world.begin([1, 2, 3, 4, 5])
    world.finish(world.live[0])
    assert sorted(world.paths()) == [[1, 2, 3], [1, 2, 3, 4, 5]]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=120))
def test_free_pages_are_runs_of_neighbours(moves: list[tuple[bool, int]]):
    free, taken = FreePages(20), list[int]()
    for back, number in moves:
        if back and taken:
            free.give(taken.pop(number % len(taken)))
        elif free.count:
            after = taken[number % len(taken)] if taken and number % 3 else None
            page, whole = free.take(after=after), set(range(20)) - set(taken)
            assert page in whole and (after is None or after + 1 not in whole or page == after + 1)
            taken.append(page)
        left = sorted(set(range(20)) - set(taken))
        runs = sorted((start, end) for start, end in free.ends.items())
        assert [page for start, end in runs for page in range(start, end)] == left and free.count == len(left)
        assert all(start - 1 not in left and end not in left for start, end in runs)
        assert {start for sizes in free.sizes for start in sizes} == set(free.ends)


def test_a_page_that_is_given_back_twice_is_noticed():
    pool = PagePool(pages=4, page_tokens=2)
    for published in (False, True):
        pages = pool.take(1) or []
        if published:
            pages = pool.publish([1, 2], pages)
        pool.give(pages)
        with pytest.raises(AssertionError, match="twice"):
            pool.give(pages)


@given(texts=st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 1), max_size=9)), max_size=12))
def test_a_space_finds_its_own_texts_and_no_others(texts: list[tuple[str, list[int]]]):
    pool, known = PagePool(pages=64, page_tokens=SIZE), {"a": [], "b": []}
    for space, tokens in texts:
        pages, part = pool.match(tokens, space=space)
        found = len(pages) * SIZE + (part.tokens if part else 0)
        assert found == max((common(path, tokens) for path in known[space]), default=0)
        if part is not None:
            pool.give([part.page])
        pages += pool.take(-(-len(tokens) // SIZE) - len(pages)) or []
        pool.give(pool.publish(tokens, pages, space=space))
        known[space].append(tokens)
    assert pool.unused == pool.size
    taken = pool.take(pool.size)
    assert taken is not None and not pool.roots, "a space without texts is forgotten"

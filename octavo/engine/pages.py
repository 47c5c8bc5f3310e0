"""Which pages of the cache belong to whom, and which hold a prompt that may come again.

A page holds the keys and values of `page_tokens` tokens. Published pages are the nodes of a tree whose paths are token
sequences, where later requests find them. They outlive their users; when pages run out, those that nobody uses go, the
longest unused first.

Ownership: a page is written by one sequence until it is published, and by nobody afterwards, so it is published when it
is full, or when its sequence gives it up. Who finds a whole page shares it; who finds the beginning of one takes a page
of its own, into which the beginning is copied, and holds the found page until that is done.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from octavo.engine.free_pages import FreePages


@dataclass(slots=True, eq=False)
class Node:
    """A published page.

    tokens     what it is known to hold, from its beginning on: all page_tokens, or fewer in a leaf
    users      running sequences that hold it; who holds a node holds its parents
    children   sorted by their tokens: the one most like a text stands beside its place
    space      of a root: whose texts begin there
    """

    page: int
    parent: "Node | None"
    tokens: tuple[int, ...]
    users: int = 0
    children: "list[Node]" = field(default_factory=list["Node"])
    space: str = ""

    def place(self, tokens: tuple[int, ...]) -> int:
        """Where among the children these tokens stand, or would stand."""
        return bisect_left(self.children, tokens, key=lambda child: child.tokens)


@dataclass(frozen=True, slots=True)
class Part:
    """The first `tokens` slots of a published page."""

    page: int
    tokens: int


class PagePool:
    """All pages, numbers 0 .. pages-1: each is free, private to one sequence, or published."""

    def __init__(self, *, pages: int, page_tokens: int) -> None:
        self.size, self.page_tokens = pages, page_tokens
        self.free, self.private = FreePages(pages), set[int]()
        self.roots: dict[str, Node] = {}  # by space; those with children
        self.nodes: dict[int, Node] = {}  # by page
        self.idle = OrderedDict[int, None]()  # published pages without users, longest unused first, children first

    def match(self, tokens: Sequence[int], *, parts: bool = True,
              space: str = "") -> tuple[list[int], Part | None]:  # fmt: skip
        """Take the longest published beginning of `tokens`: whole pages, in order, and the part of one that goes on.

        space: who shares what was published.   parts: whether a part is wanted.
        Who takes one holds its page, and gives it back when it is copied.
        """
        root = self.roots.get(space, Node(page=-1, parent=None, tokens=()))
        pages, node = list[int](), root
        while True:
            key = tuple(tokens[len(pages) * self.page_tokens : (len(pages) + 1) * self.page_tokens])
            place = node.place(key)
            nearest = max(node.children[max(0, place - 1) : place + 1], key=lambda n: common(n.tokens, key),
                          default=root)  # fmt: skip
            same = common(nearest.tokens, key)
            if same < self.page_tokens:
                break
            node = nearest
            self._hold(node)
            pages.append(node.page)
        if not same or not parts:
            return pages, None
        self._hold(nearest)
        return pages, Part(nearest.page, same)

    def take(self, count: int, *, after: int | None = None) -> list[int] | None:
        """`count` private pages, emptying unused published ones where needed; None, and nothing done, for too few.

        after   the sequence's last page: the one that follows it is preferred, as neighbours are read without a copy
        """
        if self.unused < count:
            return None
        while self.free.count < count:
            node = self.nodes[next(iter(self.idle))]
            self._drop(node)
            if node.parent and node.parent.parent is None and not node.parent.children:
                del self.roots[node.parent.space]
        pages = list[int]()
        for _ in range(count):
            after = self.free.take(after=after)
            pages.append(after)
        self.private.update(pages)
        return pages

    def publish(self, tokens: Sequence[int], pages: Sequence[int], *, space: str = "") -> list[int]:
        """Enter the pages of a sequence, which hold `tokens`; the last may be partly filled if nobody writes there.

        Returns the pages to hold instead: where the tree has one with the same tokens, that one, and ours is free.
        """
        done = next((i for i in range(len(pages), 0, -1) if pages[i - 1] in self.nodes), 0)
        if not pages:
            return []
        root = self.roots.setdefault(space, Node(page=-1, parent=None, tokens=(), space=space))
        node, held = self.nodes[pages[done - 1]] if done else root, list(pages[:done])
        for i in range(done, len(pages)):
            key = tuple(tokens[i * self.page_tokens : (i + 1) * self.page_tokens])
            place = node.place(key)
            if place < len(node.children) and node.children[place].tokens[: len(key)] == key:
                if len(key) < self.page_tokens:  # another page goes on from here: ours is not needed, and stays private
                    return [*held, pages[i]]
                node = node.children[place]
                self._hold(node)
                self.give([pages[i]])
            else:
                node = self._enter(node, key, pages[i])
            held.append(node.page)
        return held

    def give(self, pages: Sequence[int]) -> None:
        """A sequence has done with pages, in their order: private ones are free, published ones wait to be found."""
        for page in reversed(pages):  # a page is longer unused than the one before it
            node = self.nodes.get(page)
            if node is None:
                assert page in self.private, f"page {page} was given back twice"
                self.private.remove(page)
                self.free.give(page)
            else:
                assert node.users > 0, f"page {page} was given back twice"
                node.users -= 1
                if not node.users:
                    self.idle[page] = None

    @property
    def unused(self) -> int:
        """Pages that no sequence holds: free, or published and waiting to be found."""
        return self.free.count + len(self.idle)

    def _hold(self, node: Node) -> None:
        node.users += 1
        self.idle.pop(node.page, None)

    def _enter(self, parent: Node, tokens: tuple[int, ...], page: int) -> Node:
        """Make a private page a node, in place of a shorter one that holds its beginning, where nobody uses that."""
        place = parent.place(tokens)
        shorter = parent.children[place - 1] if place else None
        if shorter and not shorter.users and shorter.tokens == tokens[: len(shorter.tokens)]:
            self._drop(shorter)
            place -= 1
        self.private.remove(page)
        node = self.nodes[page] = Node(page=page, parent=parent, tokens=tokens, users=1)
        parent.children.insert(place, node)
        return node

    def _drop(self, node: Node) -> None:
        assert node.parent is not None and not node.children, "a page goes after those that follow it"
        del node.parent.children[node.parent.place(node.tokens)], self.nodes[node.page], self.idle[node.page]
        self.free.give(node.page)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginnings."""
    if one == other:
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

"""Which pages of the cache belong to whom, and which hold a prompt that may come again.

A page holds the keys and values of `page_tokens` tokens. A full page whose tokens, and all before them, are known is
published: it becomes a node of a tree whose paths are token sequences, where later requests find it. A published page
outlives its users; when pages run out, those that nobody uses go, the longest unused leaf first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """A published page. users: running sequences that hold it; used: when it was last taken or given back."""

    page: int
    parent: "Node | None"
    tokens: tuple[int, ...]
    users: int = 0
    used: int = 0
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict[tuple[int, ...], "Node"])


class PagePool:
    """All pages, numbers 0 .. pages-1."""

    def __init__(self, *, pages: int, page_tokens: int) -> None:
        self.size, self.page_tokens = pages, page_tokens
        self.free = set(range(pages))
        self.root = Node(page=-1, parent=None, tokens=())
        self.nodes: dict[int, Node] = {}  # by page
        self.clock = 0

    def match(self, tokens: Sequence[int]) -> list[int]:
        """Take the longest published path that is a proper prefix of `tokens`; returns its pages, in order."""
        pages, node = list[int](), self.root
        for start in range(0, len(tokens) - self.page_tokens, self.page_tokens):
            child = node.children.get(tuple(tokens[start : start + self.page_tokens]))
            if child is None:
                break
            node = child
            node.users += 1
            self._touch(node)
            pages.append(node.page)
        return pages

    def take(self, count: int, *, after: int | None = None) -> list[int] | None:
        """`count` pages, emptying unused published ones where needed; None (and nothing taken) where that will not do.

        after   the sequence's last page: the one that follows it is preferred, as neighbours are read without a copy
        """
        while len(self.free) < count:
            if not self._evict():
                return None
        pages = list[int]()
        for _ in range(count):
            following = -1 if after is None else after + 1
            after = following if following in self.free else self._roomiest()
            self.free.remove(after)
            pages.append(after)
        return pages

    def publish(self, tokens: Sequence[int], pages: Sequence[int]) -> None:
        """Enter the pages of a sequence; pages[i] holds tokens i*page_tokens and on, and is full."""
        node = self.root
        for i, page in enumerate(pages):
            key = tuple(tokens[i * self.page_tokens : (i + 1) * self.page_tokens])
            assert len(key) == self.page_tokens, "only a full page can be published"
            child = node.children.get(key)
            if child is None:
                assert page not in self.nodes, "a page has one place in the tree"
                child = Node(page=page, parent=node, tokens=key, users=1)
                node.children[key] = self.nodes[page] = child
                self._touch(child)
            node = child  # where another page holds the same tokens, ours stays private

    def give(self, pages: Sequence[int]) -> None:
        """A sequence has done with its pages: private ones are free, published ones stay until room is needed."""
        for page in pages:
            node = self.nodes.get(page)
            if node is None:
                assert page not in self.free, f"page {page} was given back twice"
                self.free.add(page)
            else:
                assert node.users > 0, f"page {page} was given back twice"
                node.users -= 1
                self._touch(node)

    @property
    def unused(self) -> int:
        """Pages that no sequence holds: free, or published and waiting to be found."""
        return len(self.free) + sum(node.users == 0 for node in self.nodes.values())

    def _touch(self, node: Node) -> None:
        self.clock += 1
        node.used = self.clock

    def _evict(self) -> bool:
        leaves = [node for node in self.nodes.values() if not node.users and not node.children]
        if not leaves:
            return False
        node = min(leaves, key=lambda leaf: leaf.used)
        assert node.parent is not None
        del node.parent.children[node.tokens], self.nodes[node.page]
        self.free.add(node.page)
        return True

    def _roomiest(self) -> int:
        """Where a sequence finds most neighbours: in the longest free run; half way where someone grows into it."""
        best, start, length = (0, 0), -1, 0
        for page in range(self.size + 1):
            if page in self.free:
                start, length = (page, 1) if not length else (start, length + 1)
            else:
                best, length = max(best, (length, -start)), 0
        length, start = best[0], -best[1]
        return start if start == 0 else start + length // 2

"""Free pages as runs of neighbours: a sequence whose pages follow each other is read without a copy."""


class FreePages:
    """Which pages are free. Each change is a few dictionary entries, however many pages there are.

    count    of free pages
    ends     first page of a run -> the page after its last;   starts   the page after a run's last -> its first
    sizes    runs by size: entry i holds the first pages of those of 2**(i-1) .. 2**i - 1 pages
    """

    def __init__(self, pages: int) -> None:
        self.count = 0
        self.ends, self.starts = dict[int, int](), dict[int, int]()
        self.sizes = [dict[int, None]() for _ in range(pages.bit_length() + 1)]
        self._add(0, pages)

    def give(self, page: int) -> None:
        """A page is free; it joins its neighbours."""
        start, end = self.starts.get(page, page), self.ends.get(page + 1, page + 1)
        if start < page:
            self._remove(start)
        if end > page + 1:
            self._remove(page + 1)
        self._add(start, end)

    def take(self, *, after: int | None) -> int:
        """The page that follows `after`, which is not free; else where there is room to go on. One must be free.

        Room is in a long run, of at least half the longest one's size; half way in it where someone grows into it.
        """
        page = start = -1 if after is None else after + 1
        if start not in self.ends:
            start = next(iter(next(runs for runs in reversed(self.sizes) if runs)))
            page = start if start == 0 else start + (self.ends[start] - start) // 2
        end = self._remove(start)
        self._add(start, page)
        self._add(page + 1, end)
        return page

    def _add(self, start: int, end: int) -> None:
        if start < end:
            self.ends[start], self.starts[end] = end, start
            self.sizes[(end - start).bit_length()][start] = None
            self.count += end - start

    def _remove(self, start: int) -> int:
        end = self.ends.pop(start)
        del self.starts[end], self.sizes[(end - start).bit_length()][start]
        self.count -= end - start
        return end

"""Who runs in the next forward pass, and with which pages. Pure bookkeeping: no model, no clock, no randomness."""

from collections import deque

from octavo.engine.pages import PagePool
from octavo.engine.sequence import Sequence
from octavo.engine.types import Chunk, Plan

MOST_RUNNING = 256
SCORE_TOKENS = 64  # of a prompt that is scored in one step: each gives a whole row of logits


class Scheduler:
    """First come, first served: running sequences go on, waiting ones fill up what is left of a step's tokens.

    A long prompt is computed in chunks beside the others' new tokens. When pages run out, the sequence that came last
    gives its pages up, waits at the head of the queue, and is computed anew when there is room.
    """

    def __init__(self, pool: PagePool, *, step_tokens: int) -> None:
        """step_tokens: tokens of one forward pass at most."""
        self.pool, self.step_tokens = pool, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of arrival
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and give its pages back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def plan(self) -> tuple[Plan, list[Sequence]]:
        """The next forward pass, and the sequence of each of its chunks. Empty only where nobody runs or waits."""
        left, planned = self.step_tokens, list[tuple[Sequence, int]]()
        for sequence in list(self.running):
            if left and sequence in self.running:  # it may have been preempted by one before it
                new = self._chunk_size(sequence, left)
                if self._cover(sequence, new):
                    planned.append((sequence, new))
                    left -= new
        while left and self.waiting and len(self.running) < MOST_RUNNING and not self._follows_sibling():
            new = self._admit(self.waiting[0], left)
            if not new:
                break
            planned.append((self.waiting[0], new))
            self.running.append(self.waiting.popleft())
            left -= new
        chosen = [(sequence, new) for sequence, new in planned if sequence in self.running]
        assert chosen or not self.waiting, "nobody holds a page, and the next in the queue finds none"
        return Plan(chunks=tuple(self._chunk(s, new) for s, new in chosen)), [sequence for sequence, _ in chosen]

    def lengthen(self, plan: Plan, sequences: list[Sequence], drafts: dict[Sequence, tuple[int, ...]]) -> Plan:
        """A plan that verifies drafts too. They are cut where no pages are left: nobody is preempted for a guess."""
        if not drafts:
            return plan
        pairs = zip(plan.chunks, sequences, strict=True)
        return Plan(chunks=tuple(self._verifying(c, s, drafts[s]) if s in drafts else c for c, s in pairs))

    def commit(self, plan: Plan, sequences: list[Sequence]) -> None:
        """The pass was run and its logits used. What is in the pages counts as far as the sequences went that way.

        A draft that failed leaves keys and values behind, which the next pass overwrites; they are never published.
        """
        for chunk, sequence in zip(plan.chunks, sequences, strict=True):
            sequence.computed = chunk.start + sequence.agrees(chunk)
            known = sequence.computed if sequence.publishable is None else min(sequence.computed, sequence.publishable)
            full = known // self.pool.page_tokens
            if full > chunk.start // self.pool.page_tokens:
                self.pool.publish(sequence.tokens, sequence.pages[:full])

    def _verifying(self, chunk: Chunk, sequence: Sequence, draft: tuple[int, ...]) -> Chunk:
        if not self._grow(sequence, 1 + len(draft)):
            draft = draft[: len(sequence.pages) * self.pool.page_tokens - chunk.start - 1]
        tokens, end = chunk.tokens + draft, chunk.start + len(chunk.tokens) + len(draft)
        return Chunk(tokens=tokens, start=chunk.start, pages=self._pages(sequence, end), rows="all")

    def _follows_sibling(self) -> bool:
        """Whether the next in the queue waits for another reply to its own prompt to compute that prompt first."""
        request = self.waiting[0].request
        return any(s.request is request and s.computed < len(request.tokens) for s in self.running)

    def _admit(self, sequence: Sequence, left: int) -> int:
        """Give a waiting sequence what is known of its tokens, and pages for a chunk; 0 where there is no room."""
        sequence.pages = [] if sequence.scores else self.pool.match(sequence.tokens)
        sequence.computed = len(sequence.pages) * self.pool.page_tokens
        new = self._chunk_size(sequence, left)
        if self._grow(sequence, new):
            sequence.cached = sequence.computed if sequence.cached is None else sequence.cached
            return new
        self._release(sequence)
        return 0

    def _chunk_size(self, sequence: Sequence, left: int) -> int:
        most = min(left, SCORE_TOKENS) if sequence.scores else left
        return min(len(sequence.tokens) - sequence.computed, most)

    def _cover(self, sequence: Sequence, new: int) -> bool:
        """Pages for `new` more tokens of a running sequence, taken from the last comers where need be."""
        while not self._grow(sequence, new):
            last = self.running.pop()
            self._release(last)
            self.waiting.appendleft(last)
            self.preemptions += 1
            if last is sequence:
                return False
        return True

    def _grow(self, sequence: Sequence, new: int) -> bool:
        short = -(-(sequence.computed + new) // self.pool.page_tokens) - len(sequence.pages)
        more = self.pool.take(short, after=sequence.pages[-1] if sequence.pages else None) if short > 0 else []
        if more is None:
            return False
        sequence.pages += more
        return True

    def _release(self, sequence: Sequence) -> None:
        self.pool.give(sequence.pages)
        sequence.pages, sequence.computed = [], 0

    def _chunk(self, sequence: Sequence, new: int) -> Chunk:
        end = sequence.computed + new
        rows = "all" if sequence.scores else "last" if end == len(sequence.tokens) else "none"
        tokens = tuple(sequence.tokens[sequence.computed : end])
        return Chunk(tokens=tokens, start=sequence.computed, pages=self._pages(sequence, end), rows=rows)

    def _pages(self, sequence: Sequence, end: int) -> tuple[int, ...]:
        return tuple(sequence.pages[: -(-end // self.pool.page_tokens)])  # failed drafts may have left one more

"""Who runs in the next forward pass, and with which pages. Pure bookkeeping: no model, no clock, no randomness."""

from collections import deque
from dataclasses import replace

from octavo.engine.pages import PagePool, Part
from octavo.engine.sequence import Sequence
from octavo.engine.types import Chunk, Copy, Plan

MOST_RUNNING = 256
SCORE_TOKENS = 64  # of a prompt that is scored in one step: each gives a whole row of logits
WARM_TOKENS = 32  # of a prompt that nobody waits for: a request that comes meanwhile waits for so many
PATIENT_TOKENS = 32  # of a patient prompt in a step
MOST_WARMING = 64


class Scheduler:
    """First come, first served: running sequences go on, waiting ones fill up what is left of a step's tokens.

    A long prompt is computed in chunks beside the others' new tokens. A patient one is computed in small chunks, not
    at all in a step that begins another's: who comes waits for little of it. When pages run out, the sequence that came
    last gives its pages up, waits at the head of the queue, and is computed anew when there is room.

    Where nobody runs or waits, prompts that are expected are computed, a small chunk a step. They hold pages during
    their own step only: afterwards these are published like any other, and found again or gone.
    """

    def __init__(self, pool: PagePool, *, step_tokens: int) -> None:
        """step_tokens: tokens of one forward pass at most."""
        self.pool, self.step_tokens = pool, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running = dict[Sequence, None]()  # in the order of arrival
        self.warming = deque[Sequence]()
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self.waiting.append(sequence)

    def warm(self, sequence: Sequence) -> None:
        """Compute a prompt when there is nothing else to do. Of too many, those asked for first are forgotten."""
        self.warming.append(sequence)
        if len(self.warming) > MOST_WARMING:
            self._release(self.warming.popleft())

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and give its pages back."""
        if sequence in self.running:
            del self.running[sequence]
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def plan(self) -> tuple[Plan, list[Sequence]]:
        """The next forward pass, and the sequence of each of its chunks. Empty only where nobody runs or waits."""
        left, planned = self.step_tokens, list[tuple[Sequence, int]]()
        if self.warming:
            self._release(self.warming[0])  # of a step that broke off
        patient = {s: None for s in self.running if s.patient and s.computed + 1 < len(s.tokens)}
        for sequence in [s for s in self.running if s not in patient] if patient else list(self.running):
            left -= self._go_on(sequence, left, planned)
        begun = self._admitted(left)
        planned += begun
        left -= sum(new for _, new in begun)
        if all(sequence.patient for sequence, _ in begun):
            for sequence in patient:
                left -= self._go_on(sequence, left, planned)
        chosen = [(sequence, new) for sequence, new in planned if sequence in self.running]
        assert chosen or not self.waiting, "nobody holds a page, and the next in the queue finds none"
        if not chosen and self.warming:
            chosen = self._warm_on(self.warming[0])
        copies = tuple(self._copy(s, s.part) for s, _ in chosen if s.part is not None)
        chunks = tuple(self._chunk(s, new) for s, new in chosen)
        return Plan(chunks=chunks, copies=copies), [sequence for sequence, _ in chosen]

    def _go_on(self, sequence: Sequence, left: int, planned: list[tuple[Sequence, int]]) -> int:
        """Plan a running sequence's next tokens; how many. 0 where it was preempted, or is now."""
        if not left or sequence not in self.running:
            return 0
        known = sequence.computed
        if known + 1 == len(sequence.tokens) and known < len(sequence.pages) * self.pool.page_tokens:
            planned.append((sequence, 1))  # the most common case, and the shortest way through it
            return 1
        new = self._chunk_size(sequence, left)
        if not new or not self._cover(sequence, new):
            return 0
        planned.append((sequence, new))
        return new

    def lengthen(self, plan: Plan, sequences: list[Sequence], drafts: dict[Sequence, tuple[int, ...]]) -> Plan:
        """A plan that verifies drafts too. They are cut where no pages are left: nobody is preempted for a guess."""
        if not drafts:
            return plan
        pairs = zip(plan.chunks, sequences, strict=True)
        return replace(plan, chunks=tuple(self._verifying(c, s, drafts[s]) if s in drafts else c for c, s in pairs))

    def commit(self, plan: Plan, sequences: list[Sequence]) -> None:
        """The pass was run and its logits used. What is in the pages counts as far as the sequences went that way.

        A draft that failed leaves keys and values behind, which the next pass overwrites; they are never published.
        """
        for chunk, sequence in zip(plan.chunks, sequences, strict=True):
            drafted = chunk.rows == "all"
            sequence.computed = end = chunk.start + (sequence.agrees(chunk) if drafted else len(chunk.tokens))
            if sequence.part is not None:
                self.pool.give([sequence.part.page])
                sequence.part = None
            before = chunk.start // self.pool.page_tokens
            if end // self.pool.page_tokens > before:
                full = self._known(sequence) // self.pool.page_tokens
                if full > before:
                    sequence.pages[:full] = self._publish(sequence, sequence.tokens, full)
            if sequence.warms:
                if sequence.computed == len(sequence.tokens):
                    self.warming.remove(sequence)
                self._release(sequence)

    def _verifying(self, chunk: Chunk, sequence: Sequence, draft: tuple[int, ...]) -> Chunk:
        if not self._grow(sequence, 1 + len(draft)):
            draft = draft[: len(sequence.pages) * self.pool.page_tokens - chunk.start - 1]
        tokens, end = chunk.tokens + draft, chunk.start + len(chunk.tokens) + len(draft)
        return Chunk(tokens=tokens, start=chunk.start, pages=self._pages(sequence, end), rows="all")

    def _admitted(self, left: int) -> list[tuple[Sequence, int]]:
        """Those of the queue that begin now. Replies to one prompt wait until the first of them has computed it."""
        if not left or not self.waiting:
            return []
        begun, siblings = list[tuple[Sequence, int]](), list[Sequence]()
        computing = {id(s.request) for s in self.running if s.computed < len(s.request.tokens)}
        while left and self.waiting and len(self.running) < MOST_RUNNING:
            sequence = self.waiting[0]
            if id(sequence.request) in computing:
                siblings.append(self.waiting.popleft())
                continue
            new = self._admit(sequence, left)
            if not new:
                break
            if sequence.computed < len(sequence.request.tokens):
                computing.add(id(sequence.request))
            begun.append((sequence, new))
            self.running[self.waiting.popleft()] = None
            left -= new
        self.waiting.extendleft(reversed(siblings))
        return begun

    def _admit(self, sequence: Sequence, left: int) -> int:
        """Give a waiting sequence what is known of its tokens, and pages for a chunk; 0 where there is no room."""
        return self._begin(sequence, left, parts=True) or self._begin(sequence, left, parts=False)

    def _begin(self, sequence: Sequence, left: int, *, parts: bool) -> int:
        """parts: take the beginning of a page too. That holds one page more, which may be the one that is missing."""
        known = sequence.skips if sequence.scores else len(sequence.tokens) - 1
        if known:
            sequence.pages, sequence.part = self.pool.match(
                sequence.tokens[:known], parts=parts, space=sequence.request.space
            )
        copied = 0 if sequence.part is None else sequence.part.tokens
        sequence.computed = len(sequence.pages) * self.pool.page_tokens + copied
        new = self._chunk_size(sequence, left)
        if self._grow(sequence, new):
            if sequence.cached is None:  # what the rules forced on at once may be known too, and is none of the prompt
                sequence.cached = min(sequence.computed, len(sequence.request.tokens))
            return new
        self._release(sequence)
        return 0

    def _warm_on(self, sequence: Sequence) -> list[tuple[Sequence, int]]:
        new = self._admit(sequence, min(WARM_TOKENS, self.step_tokens))
        if not new:
            self.warming.remove(sequence)
        return [(sequence, new)] if new else []

    def _chunk_size(self, sequence: Sequence, left: int) -> int:
        if sequence.scores and sequence.computed < sequence.skips:
            return min(sequence.skips - sequence.computed, left)
        most = min(left, SCORE_TOKENS) if sequence.scores else left
        most = min(most, PATIENT_TOKENS) if sequence.patient else most
        return min(len(sequence.tokens) - sequence.computed, most)

    def _cover(self, sequence: Sequence, new: int) -> bool:
        """Pages for `new` more tokens of a running sequence, taken from the last comers where need be."""
        while not self._grow(sequence, new):
            last = self.running.popitem()[0]
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

    def _known(self, sequence: Sequence) -> int:
        """Tokens that are in the sequence's pages and may be found there by others."""
        return sequence.computed if sequence.publishable is None else min(sequence.computed, sequence.publishable)

    def _release(self, sequence: Sequence) -> None:
        """Give all pages back. What they hold stays to be found, the last one's part too: nobody writes there now."""
        if sequence.part is not None:  # the copy was not made
            sequence.computed -= sequence.part.tokens
            self.pool.give([sequence.part.page])
        known = self._known(sequence)
        count = -(-known // self.pool.page_tokens)
        sequence.pages[:count] = self._publish(sequence, sequence.tokens[:known], count)
        self.pool.give(sequence.pages)
        sequence.pages, sequence.part, sequence.computed = [], None, 0

    def _publish(self, sequence: Sequence, tokens: list[int], count: int) -> list[int]:
        return self.pool.publish(tokens, sequence.pages[:count], space=sequence.request.space)

    def _copy(self, sequence: Sequence, part: Part) -> Copy:
        target = sequence.pages[sequence.computed // self.pool.page_tokens]
        return Copy(source=part.page, target=target, tokens=part.tokens)

    def _chunk(self, sequence: Sequence, new: int) -> Chunk:
        end = sequence.computed + new
        if new == 1 and end == len(sequence.tokens) and not sequence.warms and not sequence.scores:
            return Chunk(tokens=(sequence.tokens[-1],), start=end - 1, pages=self._pages(sequence, end))
        sampled = end == len(sequence.tokens) and not sequence.warms
        scored = sequence.scores and end > sequence.skips
        rows = "all" if scored else "last" if sampled and not sequence.scores else "none"
        tokens = tuple(sequence.tokens[sequence.computed : end])
        return Chunk(tokens=tokens, start=sequence.computed, pages=self._pages(sequence, end), rows=rows)

    def _pages(self, sequence: Sequence, end: int) -> tuple[int, ...]:
        return tuple(sequence.pages[: -(-end // self.pool.page_tokens)])  # failed drafts may have left one more

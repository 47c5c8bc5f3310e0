"""The engine: requests in, steps out. One `step()` serves terminal, server, evals, rollouts and agents alike."""

import secrets
from collections.abc import Iterator
from collections.abc import Sequence as Items
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from octavo.core.errors import ContextError, RequestError
from octavo.core.sampling import Sampling
from octavo.engine.channels import Automaton
from octavo.engine.pages import PagePool
from octavo.engine.rules import BudgetRule, EndRule, Rules, StopRule
from octavo.engine.sampler import Ask, History, choose_many
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence
from octavo.engine.speculation import Speculation, Speculator
from octavo.engine.types import Backend, Chunk, Plan, Request, Rule, Step, rows_of, vocabulary_of

if TYPE_CHECKING:
    from octavo.engine.grammar import Grammars

STEP_TOKENS = 512
MOST_BIAS = 1e30  # beyond it a logit overflows


class Stats(Struct, frozen=True, kw_only=True):
    """What the engine is at. pages_unused: free, or kept only because their tokens may come again.

    drafted, accepted   tokens that were guessed, and how many of them came true; computed_tokens counts them all
    """

    running: int
    waiting: int
    pages: int
    pages_unused: int
    preemptions: int
    forwards: int
    computed_tokens: int
    cached_tokens: int
    drafted: int
    accepted: int


class Engine:
    """Continuous batching over one backend. Not for two threads at once: callers lock.

    longest   tokens of prompt and reply at most: what the model takes, or what all pages hold
    """

    def __init__(self, backend: Backend, *, step_tokens: int = STEP_TOKENS,
                 speculation: Speculation | None = Speculation()) -> None:  # fmt: skip
        """step_tokens: tokens of one forward pass at most;   speculation: None is off.

        Speculation changes no token where the backend's rows do not depend on each other; where rounding does, a pass
        with drafts is to a reply what a pass with others' tokens is.
        """
        self.backend = backend
        self.longest = min(backend.context_tokens, backend.pages * backend.page_tokens)
        self.pool = PagePool(pages=backend.pages, page_tokens=backend.page_tokens)
        self.scheduler = Scheduler(self.pool, step_tokens=step_tokens)
        self.speculator = None if speculation is None else Speculator(speculation, step_tokens=step_tokens)
        self.live: dict[str, list[Sequence]] = {}  # by request id
        self.forwards = self.computed_tokens = self.cached_tokens = 0

    @cached_property
    def grammars(self) -> "Grammars":
        """Compiled for requests that ask for one: made when first needed, for the parser takes a while to import."""
        from octavo.engine.grammar import Grammars

        return Grammars()

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.live)

    @property
    def warming(self) -> bool:
        """Whether a prompt is yet to be computed that nobody has asked for: `step` does so while it is not busy."""
        return bool(self.scheduler.warming)

    @property
    def stats(self) -> Stats:
        """Counts since the start, and the present load."""
        s, speculator = self.scheduler, self.speculator
        return Stats(
            running=len(s.running), waiting=len(s.waiting), pages=self.pool.size, pages_unused=self.pool.unused,
            preemptions=s.preemptions, forwards=self.forwards, computed_tokens=self.computed_tokens,
            cached_tokens=self.cached_tokens, drafted=speculator.drafted if speculator else 0,
            accepted=speculator.accepted if speculator else 0,
        )  # fmt: skip

    def compiled(self, request: Request) -> Rules:
        """The rules of a request. Any thread may ask, and so save `submit` the time that grammars take to compile.

        Raises RequestError for what cannot be compiled.
        """
        return self._rules(request)

    def submit(self, request: Request, *, rules: Rules | None = None, patient: bool = False) -> None:
        """Queue a request. Raises RequestError, and queues nothing, for one that cannot be done.

        rules   the request's, where `compiled` gave them;   patient   its prompt gives way to others, see `Scheduler`
        """
        self._check(request)
        s = request.sampling
        most = self.longest if s.max_tokens is None else min(self.longest, len(request.tokens) + s.max_tokens)
        seed = secrets.randbits(64) if s.seed is None else s.seed
        first = rules or self._rules(request)
        sequences = [
            Sequence(
                request=request, index=index, rules=first.clone(), limit=most, seed=seed,
                tokens=list(request.tokens), history=History(request.tokens), publishable=0 if request.pools else None,
                patient=patient,
            )
            for index in range(s.n)
        ]  # fmt: skip
        self.live[request.id] = sequences
        for sequence in sequences:
            if s.max_tokens == 0 and s.logprobs is None and not request.pools:
                sequence.end("length")
                continue
            if not sequence.scores:
                sequence.force()
            if sequence.finish is None:
                self.scheduler.add(sequence)

    def warm(self, tokens: tuple[int, ...], *, space: str = "") -> None:
        """Have a prompt that is expected to come in the cache, computed in steps for which nobody waits.

        Raises RequestError for one that cannot come. It is dropped where pages run out, and of too many the first.
        """
        request = Request(id="", tokens=tokens, sampling=Sampling(max_tokens=1), space=space)
        self._check(request)
        self.scheduler.warm(Sequence(
            request=request, index=0, rules=self._rules(request), limit=len(tokens), seed=0, tokens=list(tokens),
            history=History(()), warms=True,
        ))  # fmt: skip

    def step(self) -> list[Step]:
        """Run one forward pass; returns the new tokens and ends of all replies. Empty while prompts are computed."""
        plan, sequences = self.scheduler.plan()
        if plan.chunks:
            drafts = self.speculator.propose(plan, sequences) if self.speculator else {}
            plan = self.scheduler.lengthen(plan, sequences, drafts)
            plain: list[tuple[Sequence, Chunk, NDArray[np.float32]]] = []
            for chunk, sequence, rows in self._computed(plan, sequences):
                self.computed_tokens += len(chunk.tokens)
                if sequence.scores:
                    self._score(sequence, chunk, rows)
                elif len(rows) == 1 and sequence.plain:
                    plain.append((sequence, chunk, rows))
                elif len(rows):
                    self._follow(sequence, chunk, rows)
            self._follow_plain(plain)
            self.scheduler.commit(plan, sequences)
        return self._hand_out()

    def _computed(self, plan: Plan,
                  sequences: Items[Sequence]) -> Iterator[tuple[Chunk, Sequence, NDArray[np.float32]]]:  # fmt: skip
        """The plan's chunks, each with its rows: logits, or of those that pool, what the head makes logits of."""
        both = [*zip(plan.chunks, sequences, strict=True)]
        pooling = [pair for pair in both if pair[1].request.pools]
        others = [pair for pair in both if not pair[1].request.pools] if pooling else both
        for chosen in filter(None, (others, pooling)):
            pools = chosen is pooling
            part = Plan(chunks=tuple(chunk for chunk, _ in chosen), copies=() if pools else plan.copies)
            rows, end = self.backend.hidden(part) if pools else self.backend.forward(part), 0
            self.forwards += 1
            for chunk, sequence in chosen:
                first, end = end, end + rows_of(chunk)
                yield chunk, sequence, rows[first:end]

    def forget(self) -> None:
        """Forget all that was computed: the backend's weights have changed. Nothing may run or wait."""
        assert not self.busy, "weights change while replies run"
        self.pool = self.scheduler.pool = PagePool(pages=self.pool.size, page_tokens=self.pool.page_tokens)
        self.scheduler.warming.clear()

    def cancel(self, id: str) -> list[Step]:
        """End a request now: returns what was not handed out yet and the ends of its replies. Unknown ids: nothing."""
        for sequence in self.live.get(id, ()):
            if sequence.finish is None:
                sequence.end("cancelled")
        return self._hand_out(only=id)

    def end_thinking(self, id: str) -> None:
        """Force the early-stop text in each reply of a request that is thinking now; nothing happens elsewhere."""
        for sequence in self.live.get(id, ()):
            rules = sequence.rules.clone()
            rules.budget.end_now()
            if sequence.finish is None and not sequence.scores and rules.forced():
                sequence.rules = rules
                sequence.force()
            if sequence.finish is not None:
                self.scheduler.remove(sequence)

    def generate(self, request: Request) -> list[Step]:
        """Run a request to its end, beside whatever else is running, whose steps are lost: for scripts and tests."""
        self.submit(request)
        steps: list[Step] = []
        while request.id in self.live:
            steps += [step for step in self.step() if step.id == request.id]
        return steps

    def _follow(self, sequence: Sequence, chunk: Chunk, logits_NV: NDArray[np.float32]) -> None:
        try:
            sequence.follow(chunk, logits_NV)
        except RequestError as cause:  # one reply that cannot go on must not stop the others
            sequence.end("error", error=str(cause))
        if self.speculator and chunk.rows == "all":
            self.speculator.learn(sequence, drafted=len(chunk.tokens) - 1, accepted=sequence.agrees(chunk) - 1)

    def _follow_plain(self, plain: Items[tuple[Sequence, Chunk, NDArray[np.float32]]]) -> None:
        """One token each, all sampled together."""
        asks: list[Ask] = []
        ready: list[tuple[Sequence, Chunk, NDArray[np.float32]]] = []
        for sequence, chunk, rows in plain:
            try:
                asks.append(sequence.ask())
                ready.append((sequence, chunk, rows))
            except RequestError as cause:
                sequence.end("error", error=str(cause))
        choices = choose_many([rows for _, _, rows in ready], asks)
        for (sequence, chunk, rows), choice in zip(ready, choices, strict=True):
            if choice is None:
                self._follow(sequence, chunk, rows)
                continue
            try:
                sequence.take(choice)
            except RequestError as cause:
                sequence.end("error", error=str(cause))

    def _score(self, sequence: Sequence, chunk: Chunk, rows: NDArray[np.float32]) -> None:
        try:
            if sequence.request.pools:
                sequence.pool(chunk, rows)
            elif chunk.rows == "all":
                sequence.score(chunk, rows)
        except RequestError as cause:
            sequence.end("error", error=str(cause))
        else:
            if chunk.start + len(chunk.tokens) == len(sequence.tokens):
                sequence.end("length")

    def _hand_out(self, *, only: str | None = None) -> list[Step]:
        steps: list[Step] = []
        for id in list(self.live) if only is None else [only] if only in self.live else []:
            for sequence in self.live[id]:
                steps += sequence.out
                sequence.out = []
                if sequence.finish is not None:
                    self.cached_tokens += sequence.cached or 0
                    self.scheduler.remove(sequence)
                    if self.speculator:
                        self.speculator.forget(sequence)
            self.live[id] = [sequence for sequence in self.live[id] if sequence.finish is None]
            if not self.live[id]:
                del self.live[id]
        return steps

    def _rules(self, request: Request) -> Rules:
        s, m = request.sampling, request.markers
        automaton = Automaton(request.tokens, m)
        others: list[Rule] = [EndRule(m.end), *request.rules]
        if s.stop:
            others.append(StopRule(s.stop, vocabulary_of(request)))
        if request.calls is not None or s.schema is not None or s.regex is not None or s.choice:
            from octavo.engine.tool_rule import answer_rules

            may_think = m.think_open is not None and not automaton.reasoned
            others += answer_rules(request, self.grammars, may_think=may_think)
        return Rules(automaton, BudgetRule(m, budget=request.budget_tokens, vocab_size=self.backend.vocab_size), others)

    def _check(self, request: Request) -> None:
        size, vocab = len(request.tokens), self.backend.vocab_size
        if request.id in self.live:
            raise RequestError(f"a request with id {request.id!r} is running: give each its own.")
        if not request.tokens:
            raise RequestError("the prompt has no tokens: give at least one.")
        if not all(0 <= token < vocab for token in request.tokens):
            raise RequestError(f"the prompt has a token outside 0..{vocab - 1}: it was made for another model.")
        if size > self.longest or (size == self.longest and request.sampling.max_tokens != 0):
            raise ContextError(
                f"the prompt has {size:,} tokens, prompt and reply together may have {self.longest:,}: shorten it."
            )
        _check_bias(request.sampling, vocab=vocab)


def _check_bias(sampling: Sampling, *, vocab: int) -> None:
    outside = [id for id in sampling.logit_bias if not 0 <= id < vocab]
    if outside:
        raise RequestError(f"logit_bias names the token {outside[0]}, the model has 0..{vocab - 1}.")
    for id, value in sampling.logit_bias.items():
        if not (abs(value) <= MOST_BIAS or value == -inf):
            raise RequestError(f"logit_bias gives token {id} {value}: it must be from {-MOST_BIAS} to {MOST_BIAS}.")


def tokens_of(steps: Items[Step], *, index: int = 0) -> list[int]:
    """The tokens of one reply."""
    return [step.token for step in steps if step.index == index and step.token is not None]

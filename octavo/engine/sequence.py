"""One reply while it runs: its tokens, its pages, its rules."""

from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from octavo.core.channel import Channel
from octavo.core.errors import RequestError
from octavo.engine.pages import Part
from octavo.engine.rules import Rules
from octavo.engine.sampler import (
    NOT_FINITE,
    Ask,
    Choice,
    Draws,
    History,
    choose,
    choose_many,
    is_plain,
    logprobs_of,
)
from octavo.engine.types import Chunk, EngineFinish, Request, Step


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable; never leaves the engine.

    tokens        prompt and reply;   computed   how many of them have their keys and values in `pages`
    limit         length at which the reply ends, prompt included
    publishable   tokens that later prompts may find: up to the first sampled thinking, which none of them repeats
    cached        prompt tokens that were found computed when the sequence first ran; None before
    part          the beginning of another's page, yet to be copied to the page of token `computed`, which counts it
    warms         nothing is generated: the prompt only has to be in the cache
    patient       its prompt is computed in small chunks, and not while another's begins
    pooled_D      of a request that pools: the sum of its rows so far
    out           steps to be handed out
    """

    request: Request
    index: int
    rules: Rules
    limit: int
    seed: int
    tokens: list[int]
    history: History
    publishable: int | None = None
    computed: int = 0
    cached: int | None = None
    pages: list[int] = field(default_factory=list[int])
    part: Part | None = None
    warms: bool = False
    patient: bool = False
    out: list[Step] = field(default_factory=list[Step])
    prompt_logprobs: list[float] = field(default_factory=list[float])
    prompt_top: list[tuple[tuple[int, float], ...]] = field(default_factory=list[tuple[tuple[int, float], ...]])
    pooled_D: NDArray[np.float64] | None = None
    finish: EngineFinish | None = None
    scores: bool = field(init=False)  # whether the prompt is scored and nothing generated
    plain: bool = field(init=False)  # whether its rows may be sampled beside others'
    draws: Draws = field(init=False)

    def __post_init__(self) -> None:
        """A stream of random numbers of its own."""
        self.scores = self.request.sampling.max_tokens == 0
        self.plain, self.draws = is_plain(self.request.sampling), Draws(seed=self.seed, reply=self.index)

    @property
    def skips(self) -> int:
        """Of a prompt that is scored: tokens at its beginning after which no logits are wanted."""
        return 0 if self.request.pools else self.request.scored_from - 1

    @property
    def replied(self) -> int:
        """Tokens of the reply."""
        return len(self.tokens) - len(self.request.tokens)

    def agrees(self, chunk: Chunk) -> int:
        """How many of the chunk's tokens, from its first on, are the sequence's own: all but a draft that failed."""
        own = self.tokens[chunk.start : chunk.start + len(chunk.tokens)]
        differ = (i for i, (mine, drafted) in enumerate(zip(own, chunk.tokens, strict=False)) if mine != drafted)
        return next(differ, len(own))

    def force(self) -> None:
        """Append what the rules force next, until they leave a choice or the reply is at its end."""
        while self.finish is None and (forced := self.rules.forced()):
            self._append(Choice(forced[0], None, ()), forced=True)

    def follow(self, chunk: Chunk, logits_NV: NDArray[np.float32]) -> None:
        """Append tokens for as long as the pass has the logits of the next one: one, and those that were drafted right.

        logits_NV   after each of the chunk's last N tokens
        """
        while self.finish is None and chunk.start + self.agrees(chunk) == len(self.tokens):
            self.sample(logits_NV[len(self.tokens) - chunk.start - len(chunk.tokens) - 1])

    def sample(self, logits_V: NDArray[np.float32]) -> None:
        """Append the next token, and what it entails: to the last digit as among other rows."""
        if self.plain and (common := choose_many([logits_V[None]], [self.ask()])[0]):
            return self.take(common)
        choice = choose(logits_V, self.request.sampling, history=self.history, mask=self.rules.allowed(),
                        number=self.draws.at(self.replied))  # fmt: skip
        self.take(choice)

    def ask(self) -> Ask:
        """What `choose_many` has to know for the next token."""
        return Ask(self.request.sampling, self.draws.at(self.replied), self.rules.allowed())

    def take(self, choice: Choice) -> None:
        """Append a token that was chosen, and what it entails."""
        self._append(choice, forced=False)
        self.force()

    def score(self, chunk: Chunk, logits_TV: NDArray[np.float32]) -> None:
        """Note the log-probabilities of the tokens after each of the chunk's, and the likeliest there.

        Raises RequestError where the logits are not finite.
        """
        known, tops, count = self.prompt_logprobs, self.prompt_top, self.request.sampling.logprobs or 0
        del known[chunk.start + 1 if chunk.start else 0 :], tops[len(known) :]  # after a preemption they come again
        known += [float("nan")] * (chunk.start + 1 - len(known))
        tops += [()] * (len(known) - len(tops))
        for i, logits_V in enumerate(logits_TV, chunk.start):
            if i + 1 < len(self.tokens):
                logprob, top = logprobs_of(logits_V, self.tokens[i + 1], likeliest=count)
                known.append(logprob)
                tops.append(top)

    def pool(self, chunk: Chunk, rows_TD: NDArray[np.float32]) -> None:
        """Add the chunk's rows one after the other: the sum does not depend on how the prompt is cut.

        Raises RequestError where they are not finite.
        """
        sum_D = np.zeros(rows_TD.shape[1]) if self.pooled_D is None or not chunk.start else self.pooled_D
        for row_D in rows_TD:
            sum_D += row_D
        if not np.isfinite(sum_D).all():
            raise RequestError(NOT_FINITE)
        self.pooled_D = sum_D

    def end(self, finish: EngineFinish, *, error: str | None = None) -> None:
        """Finish without another token."""
        self.finish = finish
        self.out.append(self._step(None, channel=self.rules.automaton.at, finish=finish, error=error))

    def _append(self, choice: Choice, *, forced: bool) -> None:
        channel = self.rules.accept(choice.token)
        self.tokens.append(choice.token)
        if not self.plain:
            self.history.add(choice.token)  # nobody else asks for it
        if channel is Channel.THINKING and self.publishable is None:
            self.publishable = len(self.tokens) - 1
        if self.rules.finished():
            self.finish = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish = "length"
        self.out.append(self._step(choice, channel=channel, finish=self.finish, forced=forced))

    def _step(self, choice: Choice | None, *, channel: Channel, finish: EngineFinish | None, forced: bool = False,
              error: str | None = None) -> Step:  # fmt: skip
        sampled = choice if choice is not None and not forced else None
        step = Step(
            id=self.request.id, index=self.index, token=None if choice is None else choice.token, channel=channel,
            forced=forced, logprob=None if sampled is None else sampled.logprob, finish=finish, error=error,
            top=() if sampled is None else sampled.top, cached_tokens=self.cached or 0,
            thinking_stop=self.rules.budget.stop,
        )  # fmt: skip
        if finish is None:
            return step
        return replace(
            step, keep_bytes=self.rules.keep_bytes, prompt_logprobs=tuple(self.prompt_logprobs),
            prompt_top=tuple(self.prompt_top),
            pooled=() if self.pooled_D is None else tuple((self.pooled_D / len(self.tokens)).tolist()),
        )  # fmt: skip

"""Who guesses what a reply says next. A wrong guess costs time, never a token: the target verifies them all."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from octavo.core.errors import ConfigError
from octavo.engine.pages import PagePool
from octavo.engine.types import Backend, Chunk, Plan

LOOKS = 16  # places compared for one proposal: some microseconds of Python, beside a forward pass of milliseconds
REACH = 16  # a match is not measured further back: it vouches for as many tokens as a pass can verify long before
CATCH_UP = 512  # tokens of a prompt that a draft model computes at a time, so that nobody waits long for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A wish for a draft. tokens: prompt and reply so far, which only grow; between `least` and `most` tokens, or none.

    reply   names the reply: what a drafter keeps is kept under it;   space   whose texts it may meet, see `Request`
    """

    reply: Hashable
    tokens: Sequence[int]
    least: int = 1
    most: int
    space: str = ""


class Drafter(Protocol):
    """Proposes what replies say next."""

    def propose(self, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        """One draft for each ask, of different replies; empty where there is no good guess."""
        ...

    def forget(self, reply: Hashable) -> None:
        """The reply is at its end: free what is kept for it, if anything is."""
        ...


class Lookup:
    """Where each pair of neighbouring tokens of one text stood before, latest first: the hash chains of LZ77 coders.

    Each new token costs one entry, however long the text. earlier[i]: the last place before i with the same two tokens.
    """

    def __init__(self) -> None:
        self.latest: dict[tuple[int, int], int] = {}  # a pair -> the index of its second token
        self.earlier: list[int] = [-1]

    def draft(self, tokens: Sequence[int], *, least: int, most: int) -> tuple[int, ...]:
        """What followed the longest match of the text's end (the latest among equals), no longer than that match."""
        for i in range(len(self.earlier), len(tokens)):
            pair = (tokens[i - 1], tokens[i])
            self.earlier.append(self.latest.get(pair, -1))
            self.latest[pair] = i
        place, longest, best = self.earlier[-1], 1, -1
        for _ in range(LOOKS):
            if place < 0 or longest == REACH:
                break
            length = _match(tokens, place)
            if length > longest:
                longest, best = length, place
            place = self.earlier[place]
        drafted = tuple(tokens[best + 1 : best + 1 + min(longest, most)]) if best >= 0 else ()
        return drafted if len(drafted) >= least else ()


def _match(tokens: Sequence[int], place: int) -> int:
    """How many tokens that end at `place` are those at the text's end; at most REACH."""
    length, last = 0, len(tokens) - 1
    while length < REACH and length <= place and tokens[place - length] == tokens[last - length]:
        length += 1
    return length


class NgramDrafter:
    """Prompt look-up: a reply that repeats two or more tokens of prompt or reply may go on as they did.

    Source: prompt lookup decoding, Saxena 2023; LLMA, Yang et al. 2023, arXiv:2304.04487.
    """

    def __init__(self) -> None:
        self.lookups: dict[Hashable, Lookup] = {}

    def propose(self, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        """Drafts no longer than the match they follow."""
        return [self.lookups.setdefault(a.reply, Lookup()).draft(a.tokens, least=a.least, most=a.most) for a in asks]

    def forget(self, reply: Hashable) -> None:
        """Drop the reply's index."""
        self.lookups.pop(reply, None)


@dataclass(slots=True)
class _Held:
    """What a draft model has of one reply: the tokens whose keys and values are in `pages`, and its present draft.

    sure   how many of `tokens` are known to be the reply's, and not a draft of which the target knew better
    """

    pages: list[int]
    tokens: list[int]
    sure: int
    draft: list[int] = field(default_factory=list[int])


class ModelDrafter:
    """A small model of the same vocabulary, run greedily; all replies that ask are drafted in the same passes.

    A long prompt is caught up with CATCH_UP tokens a call, and nothing is proposed meanwhile. A reply for which there
    are no pages gets no drafts. Source: speculative decoding, Leviathan et al. 2022, arXiv:2211.17192.
    """

    def __init__(self, draft: Backend, *, target: Backend) -> None:
        """Raises ConfigError where the two models' vocabularies differ."""
        if draft.vocab_size != target.vocab_size:
            raise ConfigError(
                f"the draft model has {draft.vocab_size:,} tokens, the model that it drafts for {target.vocab_size:,}: "
                f"use a smaller model of the same family."
            )
        self.backend = draft
        self.longest = min(draft.context_tokens, draft.pages * draft.page_tokens)
        self.pool = PagePool(pages=draft.pages, page_tokens=draft.page_tokens)
        self.held: dict[Hashable, _Held] = {}

    def propose(self, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        """`most` tokens for each reply that is caught up with, none for others."""
        pairs = [(ask, held) for ask in asks if (held := self._hold(ask))]
        running = pairs
        while running:
            self._forward(running)
            running = [(ask, held) for ask, held in running if 0 < len(held.draft) < ask.most]
        drafts = {ask.reply: tuple(held.draft) for ask, held in pairs}
        return [drafts.get(ask.reply, ()) for ask in asks]

    def forget(self, reply: Hashable) -> None:
        """Give the reply's pages back."""
        if held := self.held.pop(reply, None):
            self.pool.give(held.pages)

    def _hold(self, ask: Ask) -> _Held | None:
        """The reply's state, with pages for its draft and without what the target refused; None where nothing fits."""
        tokens, held, size = ask.tokens, self.held.get(ask.reply), self.pool.page_tokens
        if len(tokens) + ask.most > self.longest:
            return None
        if held is None:
            pages, _ = self.pool.match(tokens, parts=False, space=ask.space)
            known = len(pages) * size
            held = self.held[ask.reply] = _Held(pages, list(tokens[:known]), known)
        before = held.sure // size
        while held.sure < min(len(held.tokens), len(tokens) - 1) and held.tokens[held.sure] == tokens[held.sure]:
            held.sure += 1
        del held.tokens[held.sure :]
        held.draft = []
        if held.sure // size > before:
            full = held.sure // size
            held.pages[:full] = self.pool.publish(held.tokens[: full * size], held.pages[:full], space=ask.space)
        short = -(-(len(tokens) + ask.most) // size) - len(held.pages)
        more = self.pool.take(short, after=held.pages[-1] if held.pages else None) if short > 0 else []
        if more is None:
            self.forget(ask.reply)
            return None
        held.pages += more
        return held

    def _forward(self, running: Sequence[tuple[Ask, _Held]]) -> None:
        """One pass over what is missing of each reply; the likeliest token that follows joins its draft."""
        chunks, drafting = list[Chunk](), list[_Held]()
        for ask, held in running:
            start = len(held.tokens)
            held.tokens += held.draft[-1:] or ask.tokens[start : start + CATCH_UP]
            whole = len(held.tokens) == len(ask.tokens) + len(held.draft)
            pages = tuple(held.pages[: -(-len(held.tokens) // self.pool.page_tokens)])
            rows = "last" if whole else "none"
            chunks.append(Chunk(tokens=tuple(held.tokens[start:]), start=start, pages=pages, rows=rows))
            drafting += [held] if whole else []
        logits_NV = self.backend.forward(Plan(chunks=tuple(chunks)))
        for held, logits_V in zip(drafting, logits_NV, strict=True):
            held.draft.append(int(np.argmax(logits_V)))

"""A model that is a hash: its logits depend on every token before, read back from the pages, and on nothing else.

A page that was overwritten, shared too early or placed wrongly changes what it says.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.engine.types import Plan

UNWRITTEN = -1


class HashBackend:
    """Implements `octavo.engine.types.Backend`.

    loud   token -> what is added to its logit, to steer what is said
    echo   a text that is said over and over: at each place, the logit of its token there gets `strength` more
    """

    def __init__(self, *, vocab_size: int = 64, page_tokens: int = 4, pages: int = 64, context_tokens: int = 4096,
                 loud: dict[int, float] | None = None, echo: Sequence[int] = (),
                 strength: float = 0) -> None:  # fmt: skip
        self.vocab_size, self.context_tokens, self.page_tokens, self.pages = (
            vocab_size, context_tokens, page_tokens, pages,
        )  # fmt: skip
        self.width = 8
        self.store = np.full((pages, page_tokens), UNWRITTEN)
        self.loud, self.echo, self.strength = loud or {}, echo, strength
        self.forwards: list[Plan] = []

    def forward(self, plan: Plan) -> NDArray[np.float32]:
        self.forwards.append(plan)
        rows = list[NDArray[np.float32]]()
        for copy in plan.copies:
            copied = self.store[copy.source, : copy.tokens]
            assert (copied != UNWRITTEN).all(), "the plan copies a slot that nobody wrote"
            self.store[copy.target] = UNWRITTEN
            self.store[copy.target, : copy.tokens] = copied
        for chunk in plan.chunks:
            for position, token in enumerate(chunk.tokens, chunk.start):
                self.store[chunk.pages[position // self.page_tokens], position % self.page_tokens] = token
        for chunk in plan.chunks:
            end = chunk.start + len(chunk.tokens)
            seen = self.store[list(chunk.pages)].reshape(-1)[:end]
            assert (seen != UNWRITTEN).all(), "the plan reads a slot that nobody wrote"
            first = {"none": end, "last": end - 1, "all": chunk.start}[chunk.rows]
            rows += [self.logits(seen[: i + 1].tolist()) for i in range(first, end)]
        return np.stack(rows) if rows else np.empty((0, self.vocab_size), np.float32)

    def hidden(self, plan: Plan) -> NDArray[np.float32]:
        """The first few logits of each row, as if the head added the rest."""
        return self.forward(plan)[:, : self.width]

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """What comes after these tokens."""
        digest = hashlib.blake2b(np.array(tokens, dtype=np.int64).tobytes(), digest_size=16).digest()
        key = np.frombuffer(digest, np.uint64)
        row = np.random.Generator(np.random.Philox(key=key)).standard_normal(self.vocab_size).astype(np.float32)
        for token, added in self.loud.items():
            row[token] += added
        if self.echo:
            row[self.echo[len(tokens) % len(self.echo)]] += self.strength
        return row

"""Texts on their way through a model, one layer at a time.   Axes: T tokens of one text, D model, K inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from octavo.core.errors import RequestError
from octavo.models.decoder import Layer
from octavo.nn.context import PackedContext
from octavo.nn.rope import Rope
from octavo.nn.rotate import rotation

WINDOW_TOKENS = 512  # of one text; each is read from its first token on
HELD_OUT, MOST_SHOWN = 8, 32  # windows: the last ones measure, up to so many of the others calibrate


def windows(tokens: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """A text's tokens as windows (512,): to calibrate with, and to measure with. Raises RequestError if too few."""
    if len(tokens) < 2 * WINDOW_TOKENS:
        raise RequestError(f"The text has {len(tokens):,} tokens, {2 * WINDOW_TOKENS:,} are needed: name a longer one.")
    count = min(len(tokens) // WINDOW_TOKENS, HELD_OUT + MOST_SHOWN)
    whole = torch.tensor(tokens[: count * WINDOW_TOKENS]).split(WINDOW_TOKENS)
    last = min(HELD_OUT, count // 2)
    return [*whole[:-last]], [*whole[-last:]]


class Stream:
    """Hidden states (T, D) of texts between two layers."""

    def __init__(self, hidden: Sequence[Tensor], *, rope: Rope) -> None:
        self.hidden, self.rope = list(hidden), rope

    def advance(self, layer: Layer) -> None:
        """Take all texts through a layer."""
        self.hidden = [layer(*each) for each in self._arguments()]

    def reaching(self, layer: Layer, module: nn.Module) -> Iterator[Tensor]:
        """What a module inside `layer` is given (T, K), text by text; what comes after it is not computed."""
        found: list[Tensor] = []

        def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(given[0])
            raise _Reached

        handle = module.register_forward_pre_hook(stop)
        try:
            for each in self._arguments():
                try:
                    layer(*each)
                except _Reached:
                    yield found.pop()
        finally:
            handle.remove()

    def _arguments(self) -> Iterator[tuple[Tensor, Tensor, Tensor, PackedContext]]:
        for x_TD in self.hidden:
            ctx = PackedContext([len(x_TD)])
            yield x_TD, *rotation(self.rope, ctx.positions_T), ctx


class _Reached(Exception):
    """A forward pass has come as far as it was needed."""

"""What each token id stands for, as bytes: all that the engine may know of words."""

from msgspec import Struct


class Vocabulary(Struct, frozen=True, kw_only=True):
    """Token bytes for stop strings and grammars.

    tokens    tokens[i] is the UTF-8 text of token i (an added token: its literal); b"" for ids without text
    special   ids that are control tokens (`<|im_end|>`), never part of plain text
    end       id that ends a reply; the grammar offers it where the answer may stop
    """

    tokens: tuple[bytes, ...]
    special: frozenset[int] = frozenset()
    end: int = 0

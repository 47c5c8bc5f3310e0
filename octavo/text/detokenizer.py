"""Tokens back to text while they arrive, never splitting a character."""

import codecs
from collections.abc import Callable


class Utf8Decoder:
    """UTF-8 bytes in pieces -> text. What it gives, joined, equals `bytes.decode("utf-8", "replace")` of all bytes.

    Bytes that may be the beginning of a character are held back; bytes that cannot be text become U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """The characters completed by `data`; may be empty."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """U+FFFD for a character that was never completed, else empty. The decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

    def clone(self) -> "Utf8Decoder":
        """An independent copy in the same state."""
        copy = Utf8Decoder()
        copy._decoder.setstate(self._decoder.getstate())
        return copy


class Detokenizer:
    """Tokens -> text, one at a time.

    bytes_of   the bytes of a token: `Tokenizer.token_bytes`
    skip       tokens that give no text, such as `Tokenizer.special_ids`
    """

    def __init__(self, bytes_of: Callable[[int], bytes], *, skip: frozenset[int] = frozenset()) -> None:
        self._bytes_of, self._skip = bytes_of, skip
        self._decoder = Utf8Decoder()

    def push(self, token: int) -> str:
        """The characters completed by `token`; may be empty."""
        return "" if token in self._skip else self._decoder.push(self._bytes_of(token))

    def finish(self) -> str:
        """U+FFFD for a character that was never completed, else empty. The detokenizer is then as new."""
        return self._decoder.finish()

    def clone(self) -> "Detokenizer":
        """An independent copy in the same state."""
        copy = Detokenizer(self._bytes_of, skip=self._skip)
        copy._decoder = self._decoder.clone()
        return copy

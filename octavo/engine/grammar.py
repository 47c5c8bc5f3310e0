"""Answers that match a JSON schema, a regular expression or one of some choices; `llguidance` does the parsing."""

import json
from collections import OrderedDict
from copy import copy
from threading import Lock
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from octavo.core.channel import Channel, Markers
from octavo.core.errors import RequestError
from octavo.core.sampling import Sampling
from octavo.core.vocabulary import Vocabulary
from octavo.engine.limits import first_line, follow, matcher
from octavo.engine.rules import allow, forbid

# One space, or a new line and its indentation: weak models otherwise lose themselves in white space without end.
LAYOUT = r"( |\n {0,40})"
# Where only one text can follow, it may be spelled as the model spells it, not only by the one-byte tokens below.
FREE = '%llguidance {"no_forcing": true}\n'
KEPT = 4  # vocabularies whose tokenizer is kept: making one takes some tenths of a second
COMPILED = 32  # grammars that are kept compiled: the same tools and schemas are asked for again and again


class _Words:
    """What `llguidance` wants of a tokenizer: the bytes of every token, and any way to cut text into tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = [
            b"\xff" + token if i in vocabulary.special or not token else token
            for i, token in enumerate(vocabulary.tokens)
        ]
        self.special_token_ids = [i for i, t in enumerate(vocabulary.tokens) if i in vocabulary.special or not t]
        self.eos_token_id = vocabulary.end
        self.ids = {token: i for i, token in enumerate(vocabulary.tokens) if len(token) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return [self.ids[data[i : i + 1]] for i in range(len(data)) if data[i : i + 1] in self.ids]


class Grammars:
    """Compiles the grammars of requests; keeps what belongs to a vocabulary."""

    def __init__(self) -> None:
        self.tokenizers: OrderedDict[int, tuple[Vocabulary, llguidance.LLTokenizer]] = OrderedDict()
        self.compiled: OrderedDict[tuple[int, str], llguidance.LLMatcher] = OrderedDict()
        self.lock = Lock()

    def matcher(self, text: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
        """A matcher at the start of a grammar in Lark's language.

        Raises RequestError for one that cannot be compiled, saying why.
        """
        with self.lock:
            tokenizer, key = self._tokenizer(vocabulary), (id(vocabulary), text)
            made = self.compiled.get(key)
        if made is None:  # others need not wait for this one
            made = matcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(FREE + text))
        with self.lock:
            self.compiled[key] = made
            self.compiled.move_to_end(key)
            while len(self.compiled) > COMPILED:
                self.compiled.popitem(last=False)
            return made.deep_copy()

    def _tokenizer(self, vocabulary: Vocabulary) -> llguidance.LLTokenizer:
        kept = self.tokenizers.get(id(vocabulary))
        if kept is None:
            words = llguidance.TokenizerWrapper(_Words(vocabulary))
            kept = (vocabulary, llguidance.LLTokenizer(words, n_vocab=len(vocabulary.tokens)))
            self.tokenizers[id(vocabulary)] = kept
        self.tokenizers.move_to_end(id(vocabulary))
        while len(self.tokenizers) > KEPT:
            gone, _ = self.tokenizers.popitem(last=False)
            self.compiled = OrderedDict((key, made) for key, made in self.compiled.items() if key[0] != gone)
        return kept[1]


def answer_lark(sampling: Sampling) -> str:
    """The rule `answer` of a grammar in Lark's language: what the sampling asks of an answer. Raises RequestError."""
    if sampling.choice:
        if "" in sampling.choice:
            raise RequestError('choice has an empty string "": remove it.')
        return "answer: " + " | ".join(quoted(text) for text in sampling.choice)
    if sampling.regex is not None:
        try:
            return f"answer: /{llguidance.regex_to_lark(sampling.regex)}/"
        except ValueError as cause:
            raise RequestError(f"the regex cannot be used: {first_line(str(cause))}. Simplify it.") from cause
    return "answer: " + json_lark(sampling.schema)


def json_lark(schema: dict[str, Any] | bool | None) -> str:
    """A JSON schema within a grammar in Lark's language. Its properties keep their order, its layout is LAYOUT."""
    given = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
    return "%json " + json.dumps({**given, "x-guidance": {"whitespace_pattern": LAYOUT}})


def quoted(text: str) -> str:
    """Text as it stands in a grammar in Lark's language."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON takes it as it is, Lark does not


class GrammarRule:
    """Holds the answer to a grammar. Thinking is free; the gap after it is forced, so that the answer begins clean."""

    def __init__(self, matcher: llguidance.LLMatcher, markers: Markers, *, may_think: bool, may_call: bool, end: int,
                 vocab_size: int) -> None:  # fmt: skip
        """may_think, may_call: the reply may open a thinking, or a call, instead of its answer.

        A reply that called has no answer, and the grammar does not speak of what follows.
        """
        self.matcher, self.gap, self.think_close = matcher, markers.gap, markers.think_close
        self.opens = markers.think_open if may_think else None
        self.calls = markers.tool_open if may_call else None
        self.end, self.vocab_size, self.called = end, vocab_size, False
        self.other_ends = tuple(id for id in markers.end if id != end)
        self.borders = {id for id in (markers.think_open, markers.tool_open) if id is not None}
        self.leaves = {end, *markers.end} | ({markers.tool_open} if markers.tool_open is not None else set[int]())
        self.gap_left: tuple[int, ...] = ()

    def forced(self, at: Channel) -> tuple[int, ...]:
        """The gap, after the thinking was closed."""
        return self.gap_left

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """What the grammar allows next; beside it, at the very start, the tokens that open a thinking or a call.

        The thinking may hold anything but what would end the reply without an answer. Elsewhere such a token is no
        border, though it may be text that the grammar knows, and it is not allowed.
        """
        if self.called:
            return None
        mask = np.zeros((self.vocab_size + 31) // 32, dtype=np.int32)
        if at is not Channel.ANSWER:
            mask[:] = -1
            for id in self.leaves:
                forbid(mask, id)
            return mask
        self.matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self.matcher.is_error():
            raise RequestError(f"the grammar failed: {first_line(self.matcher.get_error())}. Simplify it.")
        if mask.view(np.uint32)[self.end // 32] >> np.uint32(self.end % 32) & 1:
            for id in self.other_ends:
                allow(mask, id)
        for id in self.borders:
            forbid(mask, id)
        for id in (self.opens, self.calls):
            if id is not None:
                allow(mask, id)
        return mask

    def accept(self, token: int, channel: Channel) -> None:
        """Follow the answer."""
        if channel is Channel.CLOSING:
            begins = token == self.think_close and not self.gap_left
            self.gap_left = self.gap if begins else self.gap_left[1:]
        elif channel is Channel.TOOL:
            self.called = True
        elif channel is Channel.ANSWER and token not in self.other_ends and not self.called:
            follow(self.matcher, token)
        if channel is not Channel.CLOSING:
            self.opens = None
        if channel is Channel.ANSWER:
            self.calls = None

    def finished(self) -> bool:
        """Whether nothing can follow."""
        return self.matcher.is_stopped()

    def clone(self) -> "GrammarRule":
        """An independent copy."""
        other = copy(self)
        other.matcher = self.matcher.deep_copy()
        return other

"""Answers that match a JSON schema, a regular expression or one of some choices; `llguidance` does the parsing."""

import json
from collections import OrderedDict
from copy import copy
from threading import Lock

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
KEPT = 4  # vocabularies whose tokenizer is kept: making one takes some tenths of a second


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
        self.lock = Lock()

    def rule(self, sampling: Sampling, vocabulary: Vocabulary, *, markers: Markers, may_think: bool) -> "GrammarRule":
        """The rule of a request. may_think: the model may open a thinking before its answer.

        Raises RequestError for a grammar that cannot be compiled, saying why.
        """
        text, tokenizer = grammar_text(sampling), self._tokenizer(vocabulary)
        return GrammarRule(
            matcher(tokenizer, text),
            markers,
            may_think=may_think,
            end=vocabulary.end,
            vocab_size=len(vocabulary.tokens),
        )

    def _tokenizer(self, vocabulary: Vocabulary) -> llguidance.LLTokenizer:
        with self.lock:
            kept = self.tokenizers.get(id(vocabulary))
            if kept is None:
                words = llguidance.TokenizerWrapper(_Words(vocabulary))
                kept = (vocabulary, llguidance.LLTokenizer(words, n_vocab=len(vocabulary.tokens)))
                self.tokenizers[id(vocabulary)] = kept
            self.tokenizers.move_to_end(id(vocabulary))
            while len(self.tokenizers) > KEPT:
                self.tokenizers.popitem(last=False)
            return kept[1]


def grammar_text(sampling: Sampling) -> str:
    """What `llguidance` compiles. Raises RequestError for a schema that is not one."""
    if sampling.choice:
        return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(_lark(text) for text in sampling.choice))
    if sampling.regex is not None:
        return llguidance.LLMatcher.grammar_from_regex(sampling.regex)
    schema = json.dumps(sampling.schema)
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": LAYOUT})
    except ValueError as cause:
        raise RequestError(f"the JSON schema cannot be used: {first_line(str(cause))}. Simplify it.") from cause


def _lark(text: str) -> str:
    if not text:
        raise RequestError('choice has an empty string "": remove it.')
    return json.dumps(text, ensure_ascii=False)


class GrammarRule:
    """Holds the answer to a grammar. Thinking is free; the gap after it is forced, so that the answer begins clean."""

    def __init__(self, matcher: llguidance.LLMatcher, markers: Markers, *, may_think: bool, end: int,
                 vocab_size: int) -> None:  # fmt: skip
        self.matcher, self.gap, self.think_close = matcher, markers.gap, markers.think_close
        self.opens = markers.think_open if may_think else None
        self.end, self.vocab_size = end, vocab_size
        self.other_ends = tuple(id for id in markers.end if id != end)
        self.leaves = {end, *markers.end} | ({markers.tool_open} if markers.tool_open is not None else set[int]())
        self.gap_left: tuple[int, ...] = ()

    def forced(self, at: Channel) -> tuple[int, ...]:
        """The gap, after the thinking was closed."""
        return self.gap_left

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """What the grammar allows next; beside it, at the very start, the token that opens a thinking.

        The thinking may hold anything but what would end the reply without an answer.
        """
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
        if self.opens is not None:
            allow(mask, self.opens)
        return mask

    def accept(self, token: int, channel: Channel) -> None:
        """Follow the answer."""
        if channel is Channel.CLOSING:
            begins = token == self.think_close and not self.gap_left
            self.gap_left = self.gap if begins else self.gap_left[1:]
        elif channel is Channel.ANSWER and token not in self.other_ends:
            follow(self.matcher, token)
        self.opens = None if channel is Channel.ANSWER else self.opens

    def finished(self) -> bool:
        """Whether nothing can follow."""
        return self.matcher.is_stopped()

    def clone(self) -> "GrammarRule":
        """An independent copy."""
        other = copy(self)
        other.matcher = self.matcher.deep_copy()
        return other

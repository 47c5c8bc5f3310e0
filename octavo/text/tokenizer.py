"""Text <-> tokens, for byte-level BPE: Qwen, Llama 3, GPT-2 and its kin."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from octavo.core.errors import TokenizerError
from octavo.core.vocabulary import Vocabulary
from octavo.text.detokenizer import Detokenizer
from octavo.text.families import qwen3_added
from octavo.text.parts import Added, Parts, build, wrap
from octavo.text.tokenizer_files import byte_alphabet, read_folder, read_tiktoken
from octavo.text.tokenizer_gguf import read_gguf_fields


class Tokenizer:
    """One model's tokenizer. Make it with `from_folder`, `from_tiktoken` or `from_gguf_fields`.

    vocab_size      number of ids in use, added tokens included; the model's rows may be more
    special_ids     control tokens: what `skip_special` leaves out
    added_ids       all added tokens: ids that plain text never gives
    bos_id, eos_id  tokens that begin and end a text; None where the files name none
    adds_bos        whether a plain prompt (no chat) is meant to begin with bos_id; `encode` never adds it by itself
    chat_template   the Jinja text that came with the files
    """

    def __init__(self, parts: Parts) -> None:
        """Raises TokenizerError for parts that contradict each other."""
        built = build(parts)
        self._full, self._plain = built.full, built.plain
        self._parts = _without_vocabulary(parts)
        self._added = {token.id: token for token in parts.added}
        self._ids = {token.literal: token.id for token in parts.added}
        self._bytes_of = dict.fromkeys(range(256), 0xFFFF) | {ord(c): byte for byte, c in enumerate(byte_alphabet())}
        self.vocab_size = max([*parts.vocab.values(), *self._added]) + 1
        self.added_ids = frozenset(self._added)
        self.special_ids = frozenset(id for id, token in self._added.items() if token.special)
        self.bos_id = None if parts.bos is None else self._full.token_to_id(parts.bos)
        self.eos_id = None if parts.eos is None else self._full.token_to_id(parts.eos)
        self.adds_bos = bool(parts.adds_bos)
        if parts.adds_bos is None and self.bos_id is not None:
            self.adds_bos = self._official().encode("").ids[:1] == [self.bos_id]
        self.chat_template = parts.chat_template

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer":
        """From a model's folder: tokenizer.json, else vocab.json + merges.txt, else a tiktoken rank file.

        Raises TokenizerError for a file that is missing, broken, or of a kind other than byte-level BPE.
        """
        return cls(read_folder(Path(path)))

    @classmethod
    def from_tiktoken(cls, path: Path, *, added: Sequence[tuple[str, bool]] | None = None) -> "Tokenizer":
        """From a Qwen rank file. added: (literal, whether a control token), ids follow the ranks; None: Qwen3's."""
        return cls(read_tiktoken(Path(path), added=qwen3_added() if added is None else added))

    @classmethod
    def from_gguf_fields(cls, fields: Mapping[str, Any]) -> "Tokenizer":
        """From a GGUF file's metadata, key -> plain Python value. Raises TokenizerError naming the key."""
        return cls(read_gguf_fields(fields))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text.

        special   True: added tokens in the text are recognised; False: their literals are ordinary text, so that
                  nobody can forge a control token by writing its name
        Raises TokenizerError for half of a surrogate pair, which is no text.
        """
        return self._encode(self._full if special else self._plain, text).ids

    def encode_spans(self, spans: Iterable[tuple[str, bool]]) -> list[int]:
        """Token ids of all spans as one text; each says whether added tokens in it are recognised.

        An added token is recognised where its whole literal lies in neighbouring trusted spans. All else is merged
        across the borders of spans, as in one text: the ids are those that the official tokenizer gives for the whole.
        """
        filled = [(text, bool(trusted)) for text, trusted in spans if text]
        runs = [("".join(text for text, _ in run), trusted) for trusted, run in groupby(filled, key=lambda s: s[1])]
        if len(runs) == 1:
            return self.encode(runs[0][0], special=runs[0][1])
        text = "".join(run for run, _ in runs)
        ids: list[int] = []
        done = 0
        for start, end, id in self._matches(text, runs):
            ids += self.encode(text[done:start])
            ids.append(id)
            done = end
        return ids + self.encode(text[done:])

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD. skip_special leaves control tokens out."""
        skip = self.special_ids if skip_special else frozenset[int]()
        return b"".join(self.token_bytes(id) for id in ids if id not in skip).decode("utf-8", "replace")

    def detokenizer(self, *, skip_special: bool = False) -> Detokenizer:
        """An incremental `decode`."""
        return Detokenizer(self.token_bytes, skip=self.special_ids if skip_special else frozenset())

    def token_bytes(self, id: int) -> bytes:
        """What a token stands for: UTF-8, perhaps part of a character; b"" for ids without text."""
        added = self._added.get(id)
        if added is not None:
            return added.literal.encode("utf-8")
        token = self._full.id_to_token(id) if 0 <= id < self.vocab_size else None
        if token is None:
            return b""
        try:
            return token.translate(self._bytes_of).encode("latin-1")
        except UnicodeEncodeError:  # not spelled in bytes, so it means what it says
            return token.encode("utf-8")

    def id_of(self, token: str) -> int | None:
        """The id of an added token; None where there is no such one."""
        return self._ids.get(token)

    def digest(self) -> str:
        """Of what each id says: models whose tokenizers have the same one can read each other's tokens."""
        told = json.dumps(sorted(self._full.get_vocab(with_added_tokens=True).items()))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def vocabulary(self, size: int, end: int) -> Vocabulary:
        """Every token's bytes, padded with b"" to `size`, the width of the model's rows; `end` ends a reply.

        Its `special` holds all added tokens: none of them is ever part of plain text, whatever its flag says.
        """
        if size < self.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {self.vocab_size} ids, the model rows for {size}: they come from different models."
            )
        tokens = tuple(self.token_bytes(id) for id in range(size))
        return Vocabulary(tokens=tokens, special=self.added_ids, end=end)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as `transformers` reads them, into an existing folder."""
        roles = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        config = {
            **self._parts.config,
            **{role: None if id is None else self._full.id_to_token(id) for role, id in roles.items()},
            "added_tokens_decoder": {str(id): _as_json(token) for id, token in sorted(self._added.items())},
            "clean_up_tokenization_spaces": False,
        }
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        try:
            (folder / "tokenizer.json").write_text(self._official().to_str(pretty=True), "utf-8")
            text = json.dumps(config, ensure_ascii=False, indent=2)
            (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")
        except OSError as cause:
            raise TokenizerError(f"{folder} cannot be written to ({cause.strerror}): choose another folder.") from cause

    def _encode(self, tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
        try:
            return tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as cause:
            at = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
            if at is None:
                raise
            raise TokenizerError(
                f"character {at} of the text is U+{ord(text[at]):04X}, half of a surrogate pair and no character: "
                f"send the text as valid UTF-8."
            ) from cause

    def _matches(self, text: str, runs: list[tuple[str, bool]]) -> Iterable[tuple[int, int, int]]:
        """Added tokens in trusted runs, in order and apart: start and end in `text`, and the id."""
        offset = done = 0
        for run, trusted in runs:
            found = self._encode(self._full, run) if trusted else None
            for id, (start, end) in zip(found.ids, found.offsets, strict=True) if found else ():
                token = self._added.get(id)
                if token is None:
                    continue
                before = text[offset - 1 : offset] if start == 0 else ""  # within its run the match was judged already
                after = text[offset + end : offset + end + 1] if end == len(run) else ""
                if token.single_word and _goes_on(token, run[start:end], around=(before, after)):
                    continue
                start, end = start + offset, end + offset
                while token.lstrip and _is_space(text[start - 1 : start]):  # the match stopped at the border of its run
                    start -= 1
                while token.rstrip and _is_space(text[end : end + 1]):
                    end += 1
                yield max(start, done), end, id  # the token before may have taken the white space between
                done = end
            offset += len(run)

    def _official(self) -> tokenizers.Tokenizer:
        """The tokenizer as the files have it, with what it puts around a plain prompt."""
        made = wrap(self._full.model, like=self._parts, added=self._parts.added)
        made.post_processor = self._parts.post
        if self._parts.post is None and self.adds_bos and self._parts.bos is not None and self.bos_id is not None:
            bos = (self._parts.bos, self.bos_id)
            made.post_processor = processors.TemplateProcessing(single=[bos[0], "$A"], special_tokens=[bos])
        return made


def _without_vocabulary(parts: Parts) -> Parts:
    """The small parts, which `save` needs again; the vocabulary itself lives in the model."""
    return dataclasses.replace(parts, vocab={}, merges=())


def _is_space(char: str) -> bool:
    return char.isspace() and not "\x1c" <= char <= "\x1f"  # Unicode's White_Space; Python adds these four


def _goes_on(token: Added, match: str, *, around: tuple[str, str]) -> bool:
    """Whether a word goes on beside the literal itself: where white space was taken with it, none does.

    match   the literal with that white space;   around   the characters before and after, of other runs
    """
    before = token.lstrip and _spaces(match) > _spaces(token.literal)
    after = token.rstrip and _spaces(match[::-1]) > _spaces(token.literal[::-1])
    return (not before and _in_word(around[0])) or (not after and _in_word(around[1]))


def _spaces(text: str) -> int:
    """White space at the beginning, in characters."""
    return next((i for i, char in enumerate(text) if not _is_space(char)), len(text))


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _as_json(token: Added) -> dict[str, Any]:
    fields = dataclasses.asdict(token)
    del fields["id"]
    return {"content": fields.pop("literal"), **fields}

"""The tokenizer in a GGUF file's metadata -> `Parts`."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from octavo.core.errors import TokenizerError
from octavo.text.families import GGUF_FAMILIES, QWEN2, Family
from octavo.text.parts import Added, Parts, pairs_of

T = TypeVar("T")

# `tokenizer.ggml.token_type`, source: the GGUF specification. Unused ids only pad the table.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
_QWEN_ARCHITECTURES = ("qwen2", "qwen2moe", "qwen3", "qwen3moe")
_AGAIN = "Download the file again, or convert the model with a current converter."


def read_gguf_fields(fields: Mapping[str, Any]) -> Parts:
    """`fields`: GGUF key -> plain Python value. Raises TokenizerError naming the key that is missing or wrong."""
    model = _need(fields, "tokenizer.ggml.model", str)
    if model != "gpt2":
        raise TokenizerError(
            f"GGUF: tokenizer.ggml.model is {model!r}, byte-level BPE ('gpt2') is what we read: choose a model of the "
            f"Qwen, Llama 3 or SmolLM families."
        )
    family = _family(fields)
    tokens = _need(fields, "tokenizer.ggml.tokens", list[str])
    types = _optional(fields, "tokenizer.ggml.token_type", list[int])
    if types is not None and len(types) != len(tokens):
        raise TokenizerError(f"GGUF: {len(types)} token types for {len(tokens)} tokens, one each was needed. {_AGAIN}")
    kinds = types if types is not None else [1] * len(tokens)
    bos, eos = (_border(fields, f"tokenizer.ggml.{role}_token_id", size=len(tokens)) for role in ("bos", "eos"))
    vocab = _vocabulary(tokens, kinds)
    added = [
        Added(id=id, literal=tokens[id], special=kinds[id] != _USER_DEFINED)
        for id, kind in enumerate(kinds)
        if (kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) or id in (bos, eos)) and vocab.get(tokens[id]) == id
    ]
    merges = _need(fields, "tokenizer.ggml.merges", list[str])
    return Parts(
        where="GGUF",
        vocab=_without_tail(vocab, added),
        merges=pairs_of(merges, where="GGUF"),
        added=added,
        pre=family.pre_tokenizer(),
        normalizer=family.normalizer(),
        whole_words=family.whole_words,
        bos=None if bos is None else tokens[bos],
        eos=None if eos is None else tokens[eos],
        adds_bos=_optional(fields, "tokenizer.ggml.add_bos_token", bool, default=family.adds_bos),
        chat_template=_optional(fields, "tokenizer.chat_template", str),
    )


def _family(fields: Mapping[str, Any]) -> Family:
    name = _optional(fields, "tokenizer.ggml.pre", str)
    if name is None and fields.get("general.architecture") in _QWEN_ARCHITECTURES:
        return QWEN2
    if name not in GGUF_FAMILIES:
        raise TokenizerError(
            f"GGUF: tokenizer.ggml.pre is {name!r}, which says how text is cut into words; known are "
            f"{', '.join(GGUF_FAMILIES)}. Convert the model with a current converter, or load it as safetensors."
        )
    return GGUF_FAMILIES[name]


def _vocabulary(tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """Token -> id, in the order of ids, without those that only pad the table."""
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocab) == len(tokens) and _UNUSED not in kinds and "" not in vocab:
        return vocab
    vocab = {}
    for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == _UNUSED or not token:
            continue
        if token in vocab:
            raise TokenizerError(f"GGUF: tokens {vocab[token]} and {id} are both {token!r}. {_AGAIN}")
        vocab[token] = id
    return vocab


def _without_tail(vocab: dict[str, int], added: list[Added]) -> dict[str, int]:
    """The vocabulary without the added tokens at its end, as `tokenizer.json` writes it."""
    literals, kept = {token.literal for token in added}, vocab.copy()
    while kept and next(reversed(kept)) in literals:
        kept.popitem()
    return kept


def _border(fields: Mapping[str, Any], key: str, *, size: int) -> int | None:
    id = _optional(fields, key, int)
    if id is not None and not 0 <= id < size:
        raise TokenizerError(f"GGUF: {key} is {id}, ids run from 0 to {size - 1}. {_AGAIN}")
    return id


def _need(fields: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = _optional(fields, key, kind)
    if value is None:
        raise TokenizerError(f"GGUF: {key} is missing, the tokenizer cannot be built without it. {_AGAIN}")
    return value


def _optional(fields: Mapping[str, Any], key: str, kind: type[T], *, default: T | None = None) -> T | None:
    if fields.get(key) is None:
        return default
    try:
        return msgspec.convert(fields[key], kind)
    except msgspec.ValidationError as cause:
        raise TokenizerError(f"GGUF: {key} is not what it must be ({cause}). {_AGAIN}") from cause

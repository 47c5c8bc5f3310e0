"""A model's folder or a rank file -> `Parts`."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import tokenizers
from msgspec import Struct
from tokenizers import models

from octavo.core.errors import TokenizerError
from octavo.text.families import FOLDER_FAMILIES, GPT2, QWEN2, qwen3_added
from octavo.text.parts import Added, Parts, pairs_of, translated
from octavo.text.ranks import read_ranks, recover_merges
from octavo.text.tokenizer_configs import AddedToken, Configs

T = TypeVar("T")

_LIMIT_BYTES = 256 << 20
_AGAIN = "Download it again."
_READ = "byte-level BPE is what we read (Qwen, Llama 3, GPT-2)."


class _KindFile(Struct):
    type: str = "BPE"


class _BpeFile(_KindFile, kw_only=True):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


M = TypeVar("M", bound=_KindFile)


class _TokenizerFile(Struct, Generic[M]):
    model: M
    added_tokens: list[AddedToken] = []
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: dict[str, Any] | None = None


def read_folder(folder: Path) -> Parts:
    """tokenizer.json, else vocab.json + merges.txt, else one *.tiktoken; with what the config files beside it say."""
    configs = Configs(folder)
    if (folder / "tokenizer.json").exists():
        parts = _read_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        parts = _read_vocab_and_merges(folder, configs)
    else:
        rank_files = sorted(folder.glob("*.tiktoken"))
        if len(rank_files) != 1:
            raise TokenizerError(
                f"{folder} has neither tokenizer.json nor vocab.json with merges.txt, and {len(rank_files)} *.tiktoken "
                f"files where one is needed: point at the folder of a model, or download it again."
            )
        parts = read_tiktoken(rank_files[0], added=() if configs.added() else qwen3_added())
    return configs.complete(parts)


def read_tiktoken(path: Path, *, added: Sequence[tuple[str, bool]]) -> Parts:
    """A rank file of the Qwen family; `added` (literal, whether a control token) take the ids after the ranks."""
    tokens = read_ranks(path)
    merges, complete = recover_merges(tokens)
    spelled = [_spell(token) for token in tokens]
    literals, eos = [literal for literal, _ in added], qwen3_added()[2][0]
    return Parts(
        where=str(path),
        vocab={token: rank for rank, token in enumerate(spelled)},
        merges=[(_spell(left), _spell(right)) for left, right in merges],
        added=[Added(id=id, literal=text, special=special) for id, (text, special) in enumerate(added, len(tokens))],
        pre=QWEN2.pre_tokenizer(),
        normalizer=QWEN2.normalizer(),
        whole_words=not complete,
        eos=eos if eos in literals else None,
        adds_bos=False,
        config={"pad_token": literals[0]} if literals else {},
    )


def byte_alphabet() -> list[str]:
    """The printable character that spells each byte: itself where it is printable Latin-1, else one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    rest = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


@cache
def _spelling() -> dict[int, int | str]:
    return str.maketrans(dict(enumerate(byte_alphabet())))


def _spell(token: bytes) -> str:
    return token.decode("latin-1").translate(_spelling())


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise TokenizerError(f"{path} is larger than {_LIMIT_BYTES:,} bytes: it is no tokenizer file.")
        return path.read_bytes()
    except OSError as cause:
        raise TokenizerError(f"{path} cannot be read ({cause.strerror}). {_AGAIN}") from cause


def _decode(data: bytes, kind: type[T], *, where: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as cause:  # msgspec's errors, and text that is not UTF-8
        raise TokenizerError(f"{where} is not what a tokenizer file holds ({cause}). {_AGAIN}") from cause


def _read_tokenizer_json(path: Path) -> Parts:
    data = _read_bytes(path)
    try:
        file = _decode(data, _TokenizerFile[_BpeFile], where=path)
    except TokenizerError:
        _check_kind(_decode(data, _TokenizerFile[_KindFile], where=path), where=path)  # another kind: says so first
        raise
    _check_kind(file, where=path)
    model, shell = file.model, _shell(file, where=path)
    if model.byte_fallback or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise TokenizerError(f"{path} marks ends of words or falls back to byte tokens: {_READ} Choose such a model.")
    return Parts(
        where=str(path),
        vocab=model.vocab,
        merges=_merges(model.merges, where=path),
        added=[token.as_added() for token in file.added_tokens],
        pre=shell.pre_tokenizer,
        normalizer=shell.normalizer,
        post=shell.post_processor,
        whole_words=model.ignore_merges,
        unknown=model.unk_token,
    )


def _check_kind(file: _TokenizerFile[Any], *, where: Path) -> None:
    outer = file.decoder or {}
    steps = outer.get("decoders") if outer.get("type") == "Sequence" else [outer]
    byte_level = isinstance(steps, list) and all(isinstance(s, dict) and s.get("type") == "ByteLevel" for s in steps)
    if file.model.type != "BPE" or not byte_level:
        raise TokenizerError(
            f"{where} holds a tokenizer of model {file.model.type!r} and decoder {outer.get('type')!r}: {_READ} "
            f"Choose such a model."
        )


def _shell(file: _TokenizerFile[_BpeFile], *, where: Path) -> tokenizers.Tokenizer:
    """All of tokenizer.json but the model: `tokenizers` reads its own parts, around an empty one."""
    empty = tokenizers.Tokenizer(models.BPE())
    document = json.loads(empty.to_str())
    with translated(str(where)):
        for name in ("normalizer", "pre_tokenizer", "post_processor"):
            document[name] = json.loads(bytes(getattr(file, name)))
        return tokenizers.Tokenizer.from_str(json.dumps(document))


def _merges(merges: Sequence[str | tuple[str, str]], *, where: Path) -> Sequence[tuple[str, str]]:
    """Pairs as they are; texts, as older files have them, as pairs."""
    pairs = [merge for merge in merges if not isinstance(merge, str)]
    if len(pairs) == len(merges):
        return pairs
    return pairs_of([merge if isinstance(merge, str) else " ".join(merge) for merge in merges], where=str(where))


def _read_vocab_and_merges(folder: Path, configs: Configs) -> Parts:
    vocab = _decode(_read_bytes(folder / "vocab.json"), dict[str, int], where=folder / "vocab.json")
    path = folder / "merges.txt"
    try:
        lines = _read_bytes(path).decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as cause:
        raise TokenizerError(f"{path} is not UTF-8 text ({cause.reason}). {_AGAIN}") from cause
    first = 1 if lines[0].startswith("#version") else 0
    names = (configs.tokenizer.get("tokenizer_class"), configs.model.get("model_type"))
    family = next((FOLDER_FAMILIES[name] for name in names if isinstance(name, str) and name in FOLDER_FAMILIES), None)
    if family is None:
        raise TokenizerError(
            f"{folder} has vocab.json and merges.txt but does not say how text is cut into words: tokenizer_class is "
            f"{names[0]!r} and model_type {names[1]!r}, known are {', '.join(FOLDER_FAMILIES)}. Take tokenizer.json."
        )
    added = configs.added()
    end = qwen3_added()[0][0]
    if family is GPT2 and end in vocab and not added:  # GPT-2's only added token has the same literal
        added = [Added(id=vocab[end], literal=end, special=True)]
    return Parts(
        where=str(folder / "vocab.json"),
        vocab=vocab,
        merges=pairs_of(lines[first:], where=str(path)),
        added=added,
        pre=family.pre_tokenizer(),
        normalizer=family.normalizer(),
        whole_words=family.whole_words,
    )

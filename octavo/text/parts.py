"""What every kind of tokenizer file comes to: `Parts`, checked, and built into `tokenizers` objects."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from octavo.core.errors import TokenizerError

LIMIT_IDS = 1 << 22  # ids are counted from 0 and the largest vocabulary known has 262,144: beyond it a file is broken


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """A token matched in the text before anything else.

    special     a control token, left out of decoded text on request
    lstrip, rstrip   also takes the white space on that side;  single_word   not inside a word
    normalized  matched in the normalised text
    """

    id: int
    literal: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A byte-level BPE tokenizer in plain data.

    vocab         token, bytes spelled as printable characters, -> id; added tokens may be in it or not
    merges        in the order of their ranks
    whole_words   a word that is a token stays whole, whatever the merges say
    unknown       the token for a byte without a token; None: such bytes are left out, as `tokenizers` does
    adds_bos      whether a plain prompt begins with bos; None: read it from `post`
    config        the fields of tokenizer_config.json that `save` passes on
    where         the file, for messages
    """

    where: str
    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: Sequence[Added]
    pre: pre_tokenizers.PreTokenizer | None
    normalizer: normalizers.Normalizer | None = None
    post: processors.PostProcessor | None = None
    whole_words: bool = False
    unknown: str | None = None
    bos: str | None = None
    eos: str | None = None
    adds_bos: bool | None = None
    chat_template: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


@contextmanager
def translated(where: str) -> Generator[None]:
    """Errors of the `tokenizers` package become one TokenizerError that names the file."""
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as cause:  # a panic of its Rust code is no Exception
        if not isinstance(cause, Exception) and type(cause).__name__ != "PanicException":
            raise
        reason = (str(cause).splitlines() or [type(cause).__name__])[0][:200]
        raise TokenizerError(f"{where} is no tokenizer that can be used ({reason}). Download it again.") from cause


def check(parts: Parts) -> None:
    """Raise TokenizerError for ids out of range or used twice. What merges are made of is for `check_merges`."""
    where, vocab = parts.where, parts.vocab
    if not vocab:
        raise TokenizerError(f"{where} has an empty vocabulary. Download it again.")
    ids = set(vocab.values())
    if len(ids) != len(vocab):
        owners = {id: token for token, id in vocab.items()}
        token, id = next((token, id) for token, id in vocab.items() if owners[id] != token)
        raise TokenizerError(f"{where} gives id {id} to {token!r} and to {owners[id]!r}. Download it again.")
    literals: set[str] = set()
    for token in parts.added:
        if not token.literal or token.literal in literals:
            what = f"added token {token.id} twice" if token.literal else f"an empty added token {token.id}"
            raise TokenizerError(f"{where} has {what} ({token.literal!r}): each literal once. Download it again.")
        literals.add(token.literal)
        known = vocab.get(token.literal)
        if known != token.id and (known is not None or token.id in ids):
            raise TokenizerError(
                f"{where} gives the added token {token.literal!r} the id {token.id}, which its vocabulary contradicts: "
                f"the files come from different models. Download them again."
            )
        ids.add(token.id)
    low, high = min(ids), max(ids)
    if low < 0 or high >= LIMIT_IDS:
        raise TokenizerError(f"{where} has token ids from {low} to {high}, 0 to {LIMIT_IDS - 1} are possible.")


def check_merges(parts: Parts) -> None:
    """Raise TokenizerError for the first merge that is not of three tokens of the vocabulary."""
    vocab = parts.vocab
    for rank, (left, right) in enumerate(parts.merges):
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise TokenizerError(
                f"{parts.where}: merge {rank} ({left!r} + {right!r}) is not of tokens in its vocabulary. Download it "
                f"again."
            )


def pairs_of(merges: Sequence[str], *, where: str, first: int = 0) -> list[tuple[str, str]]:
    """Merges written as two tokens with one space between. Raises TokenizerError; `first` is the number of the first.

    A vocabulary has some 150,000 of them: they are cut as one text, and one by one only to say which one is wrong.
    """
    flat = " ".join(merges).split(" ")
    if merges and set(map(str.count, merges, repeat(" "))) == {1} and "" not in flat:
        return list(zip(flat[::2], flat[1::2], strict=True))
    for number, merge in enumerate(merges, first):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(
                f"{where}: merge {number} is {merge!r}, two tokens with one space between were needed. Download it "
                f"again."
            )
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """`full` recognises added tokens; `plain` knows none of them, so no text can come to one."""

    full: tokenizers.Tokenizer
    plain: tokenizers.Tokenizer


def build(parts: Parts) -> Built:
    """The two tokenizers over one vocabulary. Raises TokenizerError for parts that contradict each other."""
    check(parts)
    with translated(parts.where):
        model = _checked_model(parts)
        full = wrap(model, like=parts, added=parts.added)
        plain_model = model
        literals = {token.literal for token in parts.added}
        if parts.unknown in literals or any(_comes_from_text(model, token) for token in parts.added):
            plain_model = _model_without(parts, literals)
        plain = wrap(plain_model, like=parts, added=())
        for text in ("a text to try, 123\n", *(token.literal for token in parts.added[:8])):
            full.encode(text, add_special_tokens=False)
            plain.encode(text, add_special_tokens=False)
    return Built(full=full, plain=plain)


def wrap(model: models.Model, *, like: Parts, added: Sequence[Added]) -> tokenizers.Tokenizer:
    """A tokenizer around a model: no post-processor, so that offsets are those of the match."""
    made = tokenizers.Tokenizer(model)
    made.normalizer = like.normalizer
    made.pre_tokenizer = like.pre
    made.decoder = decoders.ByteLevel()
    in_order = sorted(added, key=lambda token: token.id)
    made.add_tokens([_as_added_token(token) for token in in_order])
    for token in in_order:
        if made.token_to_id(token.literal) != token.id:
            raise TokenizerError(f"{like.where}: the added token {token.literal!r} cannot get its id {token.id}.")
    return made


def _as_added_token(token: Added) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.literal,
        special=token.special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized,
    )


def _with_room(parts: Parts) -> Mapping[str, int]:
    """The vocabulary; with the added tokens in it where they do not simply follow it, as their ids must be theirs."""
    new = sorted(token.id for token in parts.added if token.literal not in parts.vocab)
    size = len(parts.vocab)
    if new == list(range(size, size + len(new))) and max(parts.vocab.values()) == size - 1:
        return parts.vocab
    return {**parts.vocab, **{token.literal: token.id for token in parts.added}}


def _checked_model(parts: Parts) -> models.BPE:
    """The model with all tokens. `tokenizers` looks up each merge itself: only where it balks do we, to say which."""
    vocab = _with_room(parts)
    if vocab is not parts.vocab:  # it would take merges with added tokens for good
        check_merges(parts)
    try:
        return _model(parts, vocab, parts.merges)
    except Exception:
        check_merges(parts)
        raise


def _model(parts: Parts, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> models.BPE:
    unknown = parts.unknown if parts.unknown in vocab else None
    return models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=parts.whole_words, unk_token=unknown)


def _model_without(parts: Parts, literals: set[str]) -> models.BPE:
    """The model with these tokens taken out, and every merge that makes or uses one."""
    vocab = {token: id for token, id in parts.vocab.items() if token not in literals}
    merges = [(a, b) for a, b in parts.merges if a in vocab and b in vocab and a + b in vocab]
    return _model(parts, vocab, merges)


def _comes_from_text(model: models.BPE, token: Added) -> bool:
    """Whether merging the bytes of plain text can give this added token."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(token.literal)
    words = {token.literal, "".join(word for word, _ in spelled)}
    return any(found.id == token.id for word in words for found in model.tokenize(word))

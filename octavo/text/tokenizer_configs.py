"""What the small files beside a vocabulary say: added tokens, which of them begin and end a text, the chat template."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from octavo.core.errors import TokenizerError
from octavo.core.strict import read_json_object
from octavo.text.parts import Added, Parts

T = TypeVar("T")


class AddedToken(Struct):
    """An added token as tokenizer.json and tokenizer_config.json write it."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def as_added(self) -> Added:
        """The same in our words."""
        return Added(
            id=self.id,
            literal=self.content,
            special=self.special,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            single_word=self.single_word,
            normalized=self.normalized,
        )


class Configs:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json, generation_config.json and
    chat_template.jinja of a folder; one that is absent counts as empty."""  # fmt: skip

    def __init__(self, folder: Path) -> None:
        names = ("tokenizer_config", "special_tokens_map", "added_tokens", "config", "generation_config")
        files = [_read_optional(folder / f"{name}.json") for name in names]
        self.tokenizer, self.special, self.ids, self.model, self.generation = files
        self.folder = folder

    def added(self) -> list[Added]:
        """Added tokens of tokenizer_config.json, else of added_tokens.json."""
        where = self.folder / "tokenizer_config.json"
        table = _convert(self.tokenizer.get("added_tokens_decoder") or {}, dict[int, dict[str, Any]], where=where)
        if table:
            return [_convert({**token, "id": id}, AddedToken, where=where).as_added() for id, token in table.items()]
        ids = _convert(self.ids, dict[str, int], where=self.folder / "added_tokens.json")
        control = set(self._named())
        return [Added(id=id, literal=literal, special=literal in control) for literal, id in ids.items()]

    def complete(self, parts: Parts) -> Parts:
        """`parts` with the added tokens, bos, eos and chat template that these files name."""
        added = list(parts.added)
        literals = {token.literal for token in added}
        added += [token for token in self.added() if token.literal not in literals]
        literals |= {token.literal for token in added}
        added += [
            Added(id=parts.vocab[literal], literal=literal, special=True)
            for literal in dict.fromkeys(self._named())
            if literal not in literals and literal in parts.vocab
        ]
        named = {token.literal: token.id for token in added} | dict(parts.vocab)
        kept = {key: value for key, value in self.tokenizer.items() if key != "auto_map"}  # auto_map names code to run
        return dataclasses.replace(
            parts,
            added=added,
            bos=self._border("bos", ids=named, default=parts.bos),
            eos=self._border("eos", ids=named, default=parts.eos),
            chat_template=self._template(),
            config={**parts.config, **kept},
        )

    def _named(self) -> list[str]:
        """Literals of the tokens that the files give a role, all of which are control tokens."""
        found: list[str] = []
        for file in (self.tokenizer, self.special):
            roles = [file.get(f"{role}_token") for role in ("bos", "eos", "unk", "pad")]
            for key in ("additional_special_tokens", "extra_special_tokens"):
                more = file.get(key)
                roles += list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
            found += [literal for literal in map(_literal, roles) if literal]
        return found

    def _border(self, role: str, *, ids: dict[str, int], default: str | None) -> str | None:
        """The literal of the bos or eos token: the tokenizer's own files go before the model's."""
        for file in (self.tokenizer, self.special):
            literal = _literal(file.get(f"{role}_token"))
            if literal is not None and literal not in ids:
                raise TokenizerError(
                    f"{self.folder} names {literal!r:.80} as {role}_token, which its vocabulary lacks: the files come "
                    f"from different models. Download them again."
                )
            if literal is not None or f"{role}_token" in file:  # null there says that there is none
                return literal
        if default is not None:
            return default
        for file in (self.generation, self.model):
            given = file.get(f"{role}_token_id")
            first = given[0] if isinstance(given, list) and given else given
            literal = next((literal for literal, id in ids.items() if id == first), None)
            if literal is not None:
                return literal
        return None

    def _template(self) -> str | None:
        """chat_template.jinja, else the field of tokenizer_config.json; of several named ones the default."""
        path = self.folder / "chat_template.jinja"
        if path.exists():
            try:
                return path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as cause:
                raise TokenizerError(f"{path} cannot be read as UTF-8 text ({cause}): download it again.") from cause
        given = self.tokenizer.get("chat_template")
        if isinstance(given, list):
            entries = _convert(given, list[dict[str, str]], where=self.folder / "tokenizer_config.json")
            by_name = {entry.get("name", ""): entry.get("template") for entry in entries}
            return by_name.get("default")
        if given is not None and not isinstance(given, str):
            raise TokenizerError(
                f"{self.folder / 'tokenizer_config.json'}: chat_template is a {type(given).__name__}, text was needed."
            )
        return given


def _literal(value: Any) -> str | None:
    """A token given by its literal or as {"content": literal}."""
    literal = value.get("content") if isinstance(value, dict) else value
    return literal if isinstance(literal, str) and literal else None


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path, error=TokenizerError) if path.exists() else {}


def _convert(value: Any, kind: type[T], *, where: Path) -> T:
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError) as cause:  # the latter: half a surrogate pair
        raise TokenizerError(f"{where}: {cause}. Download it again.") from cause

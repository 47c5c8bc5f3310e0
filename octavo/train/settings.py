"""Settings of a recipe, as words `key=value`: decoded strictly, explained from the types themselves."""

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from octavo.core.errors import ConfigError

S = TypeVar("S", bound=Struct)


def read_settings(kind: type[S], words: Sequence[str], *, recipe: str) -> S:
    """`kind` from words `key=value`; a key of an inner struct is `outer.key`. Lists are JSON.

    Raises ConfigError for a word without "=", an unknown or repeated key, a value of the wrong type or range, and for a
    setting that is needed and not given.
    """
    found, seen = dict[str, Any](), set[str]()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{recipe}: {word!r:.200} is no setting: write key=value, as in {example(kind)}.")
        if key in seen:
            raise ConfigError(f"{recipe}: {key} is set twice: set it once.")
        seen.add(key)
        _place(found, kind, (key, text), recipe=recipe)
    missing = [name for name in needed(kind) if name not in found]
    if missing:
        raise ConfigError(f"{recipe} needs {', '.join(f'{name}=...' for name in missing)}.")
    return _converted(found, kind, what=recipe)


def _place(found: dict[str, Any], kind: type[Struct], word: tuple[str, str], *, recipe: str) -> None:
    key, text = word
    *path, last = key.split(".")
    inside, place = kind, found
    for name in path:
        inner = fields(inside).get(name)
        if inner is None or not _is_struct(inner):
            raise unknown(kind, key, recipe=recipe)
        place = place.setdefault(name, msgspec.to_builtins(default(inside, name, {})))
        inside = inner
    if last not in fields(inside) or _is_struct(fields(inside)[last]):
        raise unknown(kind, key, recipe=recipe)
    place[last] = _value(text, fields(inside)[last], what=f"{recipe}: {key}={text:.200}")


def default(kind: type[Struct], name: str, none: Any) -> Any:
    """The default of a field; `none` where it has none."""
    field = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return none if field.default is msgspec.NODEFAULT else field.default


def unknown(kind: type[Struct], key: str, *, recipe: str) -> ConfigError:
    """The error for a key that is none, with those that are."""
    return ConfigError(f"{recipe} has no setting {key!r:.80}: choose of {', '.join(keys(kind))}.")


def _value(text: str, kind: Any, *, what: str) -> Any:
    """What a text means for a type: itself where it can be, none, else JSON, else what msgspec makes of it (inf)."""
    if text == "none" and type(None) in get_args(kind):
        return None
    try:
        msgspec.convert(text, kind)
        return text
    except msgspec.ValidationError:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
    return msgspec.to_builtins(_converted(value, kind, what=what, strict=not isinstance(value, str)))


def _converted(value: Any, kind: Any, *, what: str, strict: bool = True) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except (msgspec.ValidationError, ConfigError) as cause:
        if _is_struct(kind):
            raise ConfigError(f"{what}: {str(cause).rstrip('.')}.") from cause
        where = f"{cause}: " if "JSON" in type_name(kind) else ""
        raise ConfigError(f"{what}: {where}give {wanted(kind)}.") from cause


def fields(kind: type[Struct]) -> dict[str, Any]:
    """Field -> type, with its bounds."""
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items()
            if name in kind.__struct_fields__}  # fmt: skip


def needed(kind: type[Struct]) -> list[str]:
    """Fields without a default."""
    return [f.name for f in msgspec.structs.fields(kind) if f.required]


def keys(kind: type[Struct]) -> list[str]:
    """All that can be set, inner structs key by key."""
    return [row[0] for row in explained(kind)]


def explained(kind: type[Struct], *, prefix: str = "", given: Any = None) -> list[tuple[str, str, str, str]]:
    """For people: key, type, default, meaning.   given: a whole struct that is the default"""
    rows = list[tuple[str, str, str, str]]()
    for name, hint in fields(kind).items():
        value = default(kind, name, msgspec.NODEFAULT) if given is None else getattr(given, name)
        if _is_struct(hint):
            rows += explained(hint, prefix=f"{prefix}{name}.", given=None if value is msgspec.NODEFAULT else value)
        else:
            shown = "(needed)" if value is msgspec.NODEFAULT else _shown(value)
            rows.append((prefix + name, type_name(hint), shown, meaning(hint)))
    return rows


def example(kind: type[Struct]) -> str:
    """A word that could be."""
    key, _, default, _ = explained(kind)[0]
    return f"{key}={'...' if default == '(needed)' else default}"


def meaning(hint: Any) -> str:
    """The description in a type's annotation; "" where it has none."""
    notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return " ".join(note.description for note in notes if isinstance(note, Meta) and note.description)


def type_name(hint: Any) -> str:
    """For people."""
    if get_origin(hint) is Annotated:
        return type_name(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("none" if each is type(None) else type_name(each) for each in get_args(hint))
    names = {str: "text", int: "whole number", float: "number", bool: "true|false"}
    return names.get(hint, "JSON")


def wanted(hint: Any) -> str:
    """For people: a type with its bounds, such as "a number at least 0 and at most 1"."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(wanted(each) for each in get_args(hint))
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Meta)]
    found = [(word, getattr(note, key)) for note in notes for key, word in words.items()]
    bounds = [f"{word} {bound:g}" for word, bound in found if bound is not None]
    name = "none" if hint is type(None) else type_name(hint)
    return " ".join([f"a {name}" if name.endswith("number") else name, " and ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    return (
        value or "none" if isinstance(value, str) else "none" if value is None else msgspec.json.encode(value).decode()
    )


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)

"""Strict decoding: JSON that is not exactly what was needed gives one clear error, never a half-understood value."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from octavo.core.errors import OctavoError

T = TypeVar("T")


def read_json_object(path: Path, *, error: type[OctavoError], limit_bytes: int = 256 << 20) -> dict[str, Any]:
    """The JSON object in a file. Raises `error` for a missing, oversized, undecodable or non-object file."""
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise error(f"{path} has {size:,} bytes, more than the {limit_bytes:,} a JSON file here may have.")
        value = json.loads(path.read_bytes())
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}): download it again or name the right folder.") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is not valid JSON ({cause}): download it again.") from cause
    if not isinstance(value, dict):
        raise error(f"{path} holds a JSON {type(value).__name__}, an object was needed: download it again.")
    return value


def decode(data: bytes | str, kind: type[T], *, what: str, error: type[OctavoError]) -> T:
    """`data` as `kind`, nothing missing and nothing extra. Raises `error` naming the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OctavoError) as cause:  # of text: half a surrogate pair
        raise error(f"{what}: {cause}") from cause

"""Texts on the disk as documents.

A file that ends with .jsonl has an object with a field `text` on each line; any other file is plain text, whose
documents are separated by blank lines.
"""

import json
import re
from collections.abc import Iterator, Sequence
from glob import glob
from hashlib import sha256
from pathlib import Path

from octavo.core.errors import SampleError

SURROGATE = re.compile(r"[\ud800-\udfff]")  # what JSON can say and UTF-8 cannot


def text_files(patterns: str) -> list[Path]:
    """Files by names or patterns (*.txt) with commas between, sorted. Raises SampleError where one has none."""
    found = list[Path]()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        named = [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))
        files = [path for path in map(Path, named) if path.is_file()]
        if not files:
            raise SampleError(f"there is no file {pattern}: name text or JSONL files.")
        found += files
    if not found:
        raise SampleError("no file was named: data=FILES, with commas between.")
    return list(dict.fromkeys(found))


def documents(files: Sequence[Path]) -> Iterator[str]:
    """All documents in order. Raises SampleError naming file and line."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as cause:
            raise SampleError(f"{path} cannot be read as UTF-8 text ({cause}).") from cause
        if path.suffix.lower() == ".jsonl":
            yield from (_field(line, f"{path.name}:{i}") for i, line in enumerate(text.split("\n"), 1) if line.strip())
        else:
            yield from (
                one for one in (part.strip("\n") for part in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text)) if one.strip()
            )


def _field(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise SampleError(f"{where}: not valid JSON ({cause}).") from cause
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not value["text"]:
        raise SampleError(f'{where}: no object with a "text" that has characters.')
    if SURROGATE.search(value["text"]):
        raise SampleError(f"{where}: half of a surrogate pair, which is no character: write it as UTF-8, or remove it.")
    return value["text"]


def texts_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents in order: what a card says of its data. Raises SampleError."""
    told = sha256()
    for path in files:
        try:
            told.update(sha256(path.read_bytes()).digest())
        except OSError as cause:
            raise SampleError(f"{path} cannot be read ({cause.strerror}).") from cause
    return told.hexdigest()

"""Learn a byte-level BPE from texts: words cut as Qwen3 cuts them, its 26 added tokens, its chat template.

Writes tokenizer.json and tokenizer_config.json, which `transformers` and this program read.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from octavo.text.learn import learn_tokenizer
from octavo.train.texts import documents, text_files
from octavo.weights.save import new_folder


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    data: Annotated[str, Meta(description="text or JSONL files, or patterns, with commas between")]
    out: Annotated[str, Meta(description="folder to write; it must not exist yet")]
    size: Annotated[int, Meta(ge=282, description="of the vocabulary: 256 bytes, merges, 26 added tokens")] = 4096


def run(settings: Settings) -> Path:
    """Returns the folder."""
    tokenizer = learn_tokenizer(documents(text_files(settings.data)), size=settings.size)
    out = Path(settings.out)
    with new_folder(out) as folder:
        tokenizer.save(folder)
    return out

"""Learn a byte-level BPE from texts: words cut as Qwen3 cuts them, its 26 added tokens, its chat template.

Writes tokenizer.json and tokenizer_config.json, which `transformers` and this program read.
"""

from itertools import chain
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from octavo.core.errors import SampleError
from octavo.text.learn import learn_tokenizer
from octavo.train.run import Progress
from octavo.train.texts import documents, text_files
from octavo.weights.save import new_folder


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    data: Annotated[str, Meta(description="text or JSONL files, or patterns, with commas between")]
    out: Annotated[str, Meta(description="folder to write; it must not exist yet")]
    size: Annotated[int, Meta(ge=256, description="tokens: 256 bytes and merges; Qwen3's 26 added ones follow")] = 4096
    context: Annotated[int, Meta(ge=1, description="tokens of the longest text that models with it will read")] = 4096


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the folder. Raises SampleError where there is no text."""
    del progress  # it takes seconds
    texts = documents(text_files(settings.data))
    first = next(texts, None)
    if first is None:
        raise SampleError(f"{settings.data} has no text: nothing to learn.")
    tokenizer = learn_tokenizer(chain([first], texts), size=settings.size, context_tokens=settings.context)
    out = Path(settings.out)
    with new_folder(out) as folder:
        tokenizer.save(folder)
    return out

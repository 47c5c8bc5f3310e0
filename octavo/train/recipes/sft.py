"""Supervised fine-tuning on conversations: JSONL as in OpenAI's API, one conversation a line.

Learnt is what the model says itself, each reply after the prompt that it would be asked with: thinking of earlier turns
is absent where the chat format leaves it out. A reply with no thinking is learnt as one of the mode without it, so that
the thinking mode stays as it is. What cannot be learnt is refused by file and line.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.sample import Sample
from octavo.train.asked import asked, made
from octavo.train.conversations import Writer, read_conversations
from octavo.train.lora import Lora
from octavo.train.run import Progress
from octavo.train.supervised import Lesson, learn_checkpoint
from octavo.train.texts import text_files
from octavo.weights.checkpoint import open_checkpoint


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe."""

    model: Annotated[str, Meta(description="folder or GGUF file of the model to begin with")]
    data: Annotated[str, Meta(description="JSONL files, or patterns, with commas between")]
    out: Annotated[str, Meta(description="folder for the model; the run is kept beside it")]
    longest: Annotated[int, Meta(ge=1, description="tokens of a sample at most; a longer one is refused")] = 4096
    last_turn: Annotated[bool, Meta(description="learn only the last reply of each conversation")] = False
    lesson: Lesson = Lesson()
    lora: Lora = Lora()
    seed: Annotated[int, Meta(ge=0)] = 0


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the model's folder."""
    out, files = Path(settings.out), text_files(settings.data)
    wanted = asked(settings, recipe="sft", files=files)
    if made(out, wanted):
        return out
    before = open_checkpoint(Path(settings.model))
    tokenizer, form = open_text(before)
    context = before.config.get("max_position_embeddings")
    writer, samples = Writer(form, tokenizer, longest=settings.longest, context=context), list[Sample]()
    for path in files:
        for name, messages, tools in read_conversations(path):
            if settings.last_turn:
                samples.append(writer.reply(messages, tools=tools, name=name))
            else:
                samples += writer.replies(messages, tools=tools, name=name)
    return learn_checkpoint(Path(settings.model), out, samples, lesson=settings.lesson, recipe="sft", settings=wanted,
                            seed=settings.seed, progress=progress, lora=settings.lora)  # fmt: skip

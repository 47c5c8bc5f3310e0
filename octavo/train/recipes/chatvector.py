"""Add what one training has changed to another model: model + scale * (plus - minus), tensor by tensor.

Say `minus` is a base model, `plus` its chat model, and `model` the base trained further in another language: what comes
out chats in that language. Source: Chat Vector, arXiv:2310.04799.
"""

from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.errors import CheckpointError
from octavo.train.asked import CARD, asked, made
from octavo.train.models import read_model, write_model
from octavo.train.run import Progress
from octavo.weights.checkpoint import open_checkpoint


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the recipe. All three have one shape; the tokenizer is that of `plus`, which chats."""

    model: Annotated[str, Meta(description="folder of the model that is changed")]
    plus: Annotated[str, Meta(description="folder of the model that was trained")]
    minus: Annotated[str, Meta(description="folder of the model it was trained from")]
    out: Annotated[str, Meta(description="folder for what comes out")]
    scale: Annotated[float, Meta(description="how much of the difference")] = 1.0
    embeddings: Annotated[bool, Meta(description="change embeddings and head too")] = True


def run(settings: Settings, *, progress: Progress | None = None) -> Path:
    """Returns the folder. Raises CheckpointError naming the first tensor that does not fit."""
    del progress
    out = Path(settings.out)
    wanted = asked(settings, recipe="chatvector")
    if made(out, wanted):
        return out
    model, config = read_model(Path(settings.model))
    plus, minus = open_checkpoint(Path(settings.plus)), open_checkpoint(Path(settings.minus))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for other in (plus, minus):
                shape = tuple(other.shape(name)) if name in other.names else None
                if shape != tuple(parameter.shape):
                    found = "is not there" if shape is None else f"has shape {shape}"
                    raise CheckpointError(
                        f"{other.name}: {name} {found}, {settings.model} has {tuple(parameter.shape)}: the three "
                        f"models must have one shape and one vocabulary."
                    )
            if settings.embeddings or not name.endswith(("embed_tokens.weight", "lm_head.weight")):
                change = plus.read(name).float() - minus.read(name).float()
                parameter.add_(change, alpha=settings.scale)
    tokenizer, _ = open_text(plus)
    write_model(out, model, config=config, tokenizer=tokenizer, more={CARD: {"settings": wanted}})
    return out

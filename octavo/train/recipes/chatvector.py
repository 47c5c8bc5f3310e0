"""Add what one training has changed to another model: model + scale * (plus - minus), tensor by tensor.

Say `minus` is a base model, `plus` its chat model, and `model` the base trained further in another language: what comes
out chats in that language. Source: Chat Vector, arXiv:2310.04799.
"""

import math
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta, Struct

from octavo.chat.loading import open_text
from octavo.core.errors import CheckpointError, ConfigError
from octavo.models.decoder import Decoder
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
    """Returns the folder. Raises CheckpointError naming the first tensor that does not fit, ConfigError for a scale."""
    del progress
    if not math.isfinite(settings.scale):
        raise ConfigError(f"scale={settings.scale} is no number to multiply with: give a finite one.")
    out = Path(settings.out)
    wanted = asked(settings, recipe="chatvector")
    if made(out, wanted):
        return out
    before = open_checkpoint(Path(settings.model))
    model, config = read_model(Path(settings.model))
    for path, sign in ((settings.plus, 1.0), (settings.minus, -1.0)):
        add(model, Path(path), scale=sign * settings.scale, embeddings=settings.embeddings, like=settings.model)
    halved = all(before.dtype_name(name) == "BF16" for name in before.names)
    tokenizer, form = open_text(open_checkpoint(Path(settings.plus)))
    write_model(out, model, config=config, tokenizer=tokenizer, dtype=torch.bfloat16 if halved else None,
                more={CARD: {"settings": wanted}}, ends=form.markers(tokenizer).end)  # fmt: skip
    return out


@torch.no_grad()
def add(model: Decoder, path: Path, *, scale: float, embeddings: bool, like: str) -> None:
    """Add scale times another checkpoint's parameters. Raises CheckpointError naming the first that does not fit."""
    other = dict(read_model(path)[0].named_parameters())
    if more := sorted(other.keys() - dict(model.named_parameters()).keys()):
        raise CheckpointError(f"{path.name} has {more[0]}, {like} has none: the three models must have one shape.")
    for name, parameter in model.named_parameters():
        shape = tuple(other[name].shape) if name in other else None
        if shape != tuple(parameter.shape):
            found = "is not there" if shape is None else f"has shape {shape}"
            raise CheckpointError(f"{path.name}: {name} {found}, {like} has {tuple(parameter.shape)}: the three models "
                                  f"must have one shape and one vocabulary.")  # fmt: skip
        if embeddings or not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            parameter.add_(other[name], alpha=scale)

"""Recipes: one module each with `Settings` and `run(settings)`, and one line here."""

from importlib import import_module
from typing import Any, NamedTuple

from octavo.core.errors import ConfigError


class Recipe(NamedTuple):
    """module: in this package, imported only when it is asked for;   text: what it does"""

    module: str
    text: str


# fmt: off
RECIPES: dict[str, Recipe] = {
    "tokenizer": Recipe("tokenizer", "Learn a byte-level BPE with Qwen3's special tokens and chat template from texts."),
    "pretrain": Recipe("pretrain", "Train a model from nothing, or go on with one: general, reasoning, long context."),
}
# fmt: on


def recipe(name: str) -> Any:
    """The module of a recipe. Raises ConfigError for a name that is none."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r:.80}: choose {', '.join(RECIPES)}.")
    return import_module(f"{__name__}.{RECIPES[name].module}")

"""`octavo train`: one recipe with its settings, key=value."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from octavo.cli.clean import clean

HELP = ("-h", "--help")


def train(
    recipe: Annotated[str, typer.Argument(help="Which recipe.")] = "",
    words: Annotated[list[str] | None, typer.Argument(help="Its settings, key=value.")] = None,
) -> None:
    """Train: a recipe and its settings, key=value. RECIPE --help: what can be set."""
    from octavo.train import recipes

    given = words or []
    if recipe in ("", *HELP):
        for line in listed():
            print(line)
        return
    module = recipes.recipe(recipe)
    if any(word in HELP for word in given):
        for line in described(recipe, module):
            print(line)
        return
    from octavo.train.settings import read_settings

    done = module.run(read_settings(module.Settings, given, recipe=recipe))
    if done is not None:
        print(clean(str(done)))
        sys.stdout.flush()


def listed() -> Iterator[str]:
    """The recipes, a line each."""
    from octavo.train.recipes import RECIPES

    yield "Usage: octavo train RECIPE [key=value ...]"
    yield "       octavo train RECIPE --help"
    yield "       torchrun --nproc-per-node N -m octavo train RECIPE [key=value ...]"
    yield ""
    yield "Recipes:"
    wide = max(map(len, RECIPES))
    yield from (f"  {name:<{wide}}  {one.text}" for name, one in RECIPES.items())


def described(name: str, module: Any) -> Iterator[str]:
    """What can be set: key, type, default, meaning."""
    from octavo.cli.models import table
    from octavo.train.settings import explained

    yield f"Usage: octavo train {name} [key=value ...]"
    yield ""
    yield (module.__doc__ or "").strip()
    yield ""
    yield from table([("key", "type", "default", "meaning"), *explained(module.Settings)])

"""`octavo train`: one recipe with its settings, key=value."""

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.clean import clean

if TYPE_CHECKING:
    from octavo.train.run import Told

HELP = ("-h", "--help")
WIDE = 30  # characters of a default that fits into the table


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

    done = module.run(located(read_settings(module.Settings, given, recipe=recipe)), progress=Bars())
    if done is not None and os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the one that writes
        print(clean(str(done)))
        sys.stdout.flush()


def located(settings: Any) -> Any:
    """Settings with the folders of models that were named as a chat names them: from the hub, or of the install. What
    would lie in a folder that is here is a path, and left as it is."""
    from msgspec.structs import replace

    from octavo.train.asked import MODELS
    from octavo.weights.hub import find_model

    def report(line: str) -> None:
        print(clean(line), file=sys.stderr)

    given = {name: Path(getattr(settings, name)) for name in MODELS if getattr(settings, name, "")}
    named = {name: str(path) for name, path in given.items() if not (path.exists() or Path(path.parts[0]).is_dir())}
    return replace(settings, **{name: str(find_model(text, report=report)) for name, text in named.items()})


class Bars:
    """Shows runs as bars on stderr: steps, loss, tokens per second, MFU, time left. Nothing where it is no terminal."""

    @contextmanager
    def begin(self, name: str, *, steps: int, done: int) -> Generator[Callable[["Told"], None]]:
        """One run."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn(clean(name).replace("[", "(")), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.description}"), TimeRemainingColumn(), console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            task = bar.add_task("", total=steps, completed=done)

            def show(told: "Told") -> None:
                text = f"loss {told.loss:.4f}  {told.speed:,.0f} tokens/s  MFU {told.mfu:.1%}"
                bar.update(task, completed=told.step, description=text)

            yield show


def listed() -> Iterator[str]:
    """The recipes, a line each."""
    from octavo.train.recipes import RECIPES

    yield "Usage: octavo train RECIPE [key=value ...]"
    yield "       octavo train RECIPE --help"
    yield "       torchrun --nproc-per-node N -m octavo train RECIPE [key=value ...]"
    yield ""
    yield "Recipes:"
    wide = max(map(len, RECIPES))
    yield from (f"  {name:<{wide}}  {text}" for name, text in RECIPES.items())


def described(name: str, module: Any) -> Iterator[str]:
    """What can be set: key, type, default, meaning."""
    from octavo.cli.models import table
    from octavo.train.settings import explained

    yield f"Usage: octavo train {name} [key=value ...]"
    yield ""
    yield (module.__doc__ or "").strip()
    yield ""
    rows = explained(module.Settings)
    shown = [(key, kind, value if len(value) <= WIDE else "(below)", text) for key, kind, value, text in rows]
    yield from table([("key", "type", "default", "meaning"), *shown])
    yield from (f"\n{key}={value}" for key, _, value, _ in rows if len(value) > WIDE)

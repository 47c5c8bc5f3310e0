"""The entry point: the table of verbs, and how every error reaches the user."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from octavo import __version__
from octavo.cli import api_keys, batch, bench, chat, doctor, models, quantize, serve, train, usage
from octavo.cli import run as run_verb
from octavo.cli.clean import clean
from octavo.core.errors import OctavoError

# How often a thread of OpenMP looks for work before it sleeps. Of itself it looks for so long that one other busy
# program on two cores has a model's threads wait for threads that wait.
SPINS = "10000"

Verb = Callable[..., None]

VERBS: dict[str, Verb] = {
    "chat": chat.chat,
    "run": run_verb.run,
    "doctor": doctor.doctor,
    "bench": bench.bench,
    "quantize": quantize.quantize,
    "serve": serve.serve,
    "usage": usage.usage,
}
OWN_HELP: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}
GROUPS: dict[str, tuple[str, dict[str, Verb]]] = {
    "models": (models.__doc__ or "", models.VERBS),
    "keys": (api_keys.__doc__ or "", api_keys.VERBS),
    "batch": (batch.__doc__ or "", batch.VERBS),
}


def app() -> typer.Typer:
    """The whole command line, without rich: help has to come in a blink."""
    top = _typer("Talk to open models on your own machine, and train them.")
    top.callback(invoke_without_command=True)(_top)
    for name, verb in VERBS.items():
        top.command(name)(verb)
    # Recipes have settings and a help of their own, which are read when one is asked for.
    top.command("train", add_help_option=False, context_settings=OWN_HELP)(train.train)
    for name, (text, verbs) in GROUPS.items():
        group = _typer(text)
        for verb_name, verb in verbs.items():
            group.command(verb_name)(verb)
        top.add_typer(group, name=name)
    return top


def run() -> None:
    """What the `octavo` command runs. Exit code 0, 1 for an OctavoError, 2 for wrong usage, 130 for Ctrl-C."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show becomes "?", never a crash
    if "OMP_WAIT_POLICY" not in os.environ:  # before torch is imported, which reads it
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        app()(prog_name="octavo")
    except OctavoError as error:
        print(f"octavo: {clean(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _typer(text: str) -> typer.Typer:
    return typer.Typer(
        help=text, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
        no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"octavo {__version__}")
        raise typer.Exit()

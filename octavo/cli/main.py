"""The entry point: the table of verbs, and how every error reaches the user."""

import errno
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from octavo import __version__
from octavo.cli import api_keys, batch, bench, chat, doctor, models, quantize, serve, train, usage
from octavo.cli import run as run_verb
from octavo.cli.clean import clean
from octavo.core.errors import OctavoError

# How often a thread of OpenMP looks for work before it sleeps. Of itself it looks for so long that one other busy
# program on two cores has a model's threads wait for threads that wait.
SPINS = "10000"
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)  # faults of where output goes, not ours

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
    """What the `octavo` command runs.

    Exit code 0, 1 for an OctavoError or output that cannot be written, 2 for wrong usage, 130 for Ctrl-C.
    """
    _open_streams()
    if "OMP_WAIT_POLICY" not in os.environ:  # before torch is imported, which reads it
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        try:
            app()(prog_name="octavo")
        finally:
            sys.stdout.flush()  # as the interpreter ends it is too late to say what went wrong
    except OctavoError as error:
        print(f"octavo: {clean(str(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as cause:
        if cause.errno not in UNWRITTEN or cause.filename is not None:  # a named file's: not the output's
            raise
        _leave_unwritten(cause)
    except KeyboardInterrupt:
        sys.exit(130)


def _open_streams() -> None:
    """Where the shell closed a stream (`>&-`), it leads nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in this order each gets its own number
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(handle, True)  # to the processes that we start
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8"))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show becomes "?", never a crash


def _leave_unwritten(cause: OSError) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter still writes at its end
    if cause.errno != errno.EPIPE:  # who reads no more has seen enough
        print(f"octavo: the output cannot be written ({cause.strerror}): make room, or send it elsewhere.",
              file=sys.stderr)  # fmt: skip
    sys.exit(1)


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

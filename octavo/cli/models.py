"""The models on this machine: list, show, pull, remove, clear."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from octavo.cli.chat import LARGER
from octavo.cli.clean import one_line
from octavo.core.errors import HubError
from octavo.core.sources import Hub

if TYPE_CHECKING:
    from octavo.weights.checkpoint import Checkpoint


def list_all() -> None:
    """List the models that are here: the hub cache, and what came with the install."""
    from octavo.weights.hub import list_models
    from octavo.weights.memory import gigabytes
    from octavo.weights.packed_file import packed_bytes

    found = list_models()
    if not found:
        print(f"No model is here yet: octavo models pull {LARGER}", file=sys.stderr)
    for line in table([(one_line(m.name), gigabytes(m.size_bytes), one_line(m.model_type)) for m in found]):
        print(line)
    if packed := packed_bytes():
        print(f"Beside these, {gigabytes(packed)} of weights packed for this CPU: octavo models clear", file=sys.stderr)


def show(
    name: Annotated[str, typer.Argument(help="A name from the list, a folder or a GGUF file.")],
) -> None:
    """Show what a model is and what it needs of this machine."""
    from octavo.chat.loading import choose_backend
    from octavo.weights.checkpoint import open_checkpoint
    from octavo.weights.hub import find_model

    checkpoint = open_checkpoint(find_model(name, offline=True))
    for line in table([*facts(checkpoint), ("needs", choose_backend(checkpoint).needed.line)]):
        print(line)


def pull(
    name: Annotated[str, typer.Argument(help=f"org/name, such as {LARGER}.")],
    hub: Annotated[Hub, typer.Option(help="Where it comes from.")] = "huggingface",
) -> None:
    """Download a model; one that was begun is gone on with."""
    from octavo.weights.checkpoint import open_checkpoint
    from octavo.weights.hub import find_model

    path = find_model(name, hub=hub, whole=True,
                      report=lambda line: print(one_line(line), file=sys.stderr, flush=True))  # fmt: skip
    open_checkpoint(path)  # a GGUF file may be of a type or a family that is not read: who pulls it is told now
    print(path)


def rm(
    name: Annotated[str, typer.Argument(help="A name from the list.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the hub cache, which other programs may share."""
    from octavo.weights.hub import remove_model
    from octavo.weights.memory import gigabytes

    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("there is nobody to ask: give --yes.", param_hint="--yes")
    if not yes and not typer.confirm(f"Delete {one_line(name)} from the cache that other programs may share?"):
        raise HubError(f"{one_line(name)} stays.")
    print(f"{gigabytes(remove_model(name))} freed")


def clear() -> None:
    """Delete the weights that were packed for this CPU; a model that is opened is packed again."""
    from octavo.weights.memory import gigabytes
    from octavo.weights.packed_file import remove_packed

    print(f"{gigabytes(remove_packed())} freed")


def facts(checkpoint: "Checkpoint") -> list[tuple[str, str]]:
    """What a model's files say of it. Raises ConfigError for a config that is not understood."""
    from octavo.models import read_config
    from octavo.models.parameters import parameter_shapes

    config = read_config(checkpoint.config)
    names = checkpoint.names
    kinds = sorted({checkpoint.dtype_name(name) for name in names})
    parameters = sum(map(math.prod, parameter_shapes(config).values()))  # a file may hold a tied head as well
    return [
        ("name", one_line(checkpoint.name)),
        ("path", one_line(str(checkpoint.path))),
        ("family", one_line(str(checkpoint.config.get("model_type")))),
        ("parameters", f"{parameters:,}"),
        ("tensors", f"{len(names):,} ({', '.join(kinds)})"),
        ("layers", f"{config.layers}"),
        ("width", f"{config.heads.width:,}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("context", f"{config.context_tokens:,} tokens"),
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns lined up."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


VERBS: dict[str, Callable[..., None]] = {"list": list_all, "show": show, "pull": pull, "rm": rm, "clear": clear}

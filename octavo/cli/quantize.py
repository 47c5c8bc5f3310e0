"""`octavo quantize`: smaller weights, and how far the model is from itself then."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from octavo.cli.clean import one_line
from octavo.cli.files import beginning
from octavo.cli.models import table
from octavo.core.errors import RequestError
from octavo.core.sources import silent

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer
    from octavo.weights import Checkpoint
    from octavo.weights.quantise import Quantised

MOST_CHARACTERS = 200_000  # of a text: more than is looked at


def quantize(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file or org/name.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; it must not exist yet.")] = None,
    *,
    format: Annotated[Literal["w8", "w4"], typer.Option(help="8 or 4 bits per weight.")] = "w4",
    method: Annotated[
        Literal["rtn", "mse", "gptq"], typer.Option(help="Nearest, least squares, or with error feedback.")
    ] = "mse",
    text: Annotated[Path | None, typer.Option(help="Text such as the model will see; else Python's manual.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Measure the result beside the model.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
) -> None:
    """Quantise a model's weights for the CPU: 8 or 4 bits, with activations in 8."""
    if out is None and not report:
        raise typer.BadParameter("there is nothing to do: name a folder to write, or give --report.", param_hint="OUT")
    if out is not None and out.exists():
        raise RequestError(f"{one_line(str(out))} exists already: name a new folder.")
    from octavo.models import skeleton
    from octavo.weights import find_model, load_weights, open_checkpoint
    from octavo.weights.quantise import EMBEDDING, Recipe, quantise
    from octavo.weights.save_quantised import save_quantised
    from octavo.weights.stream import windows

    checkpoint = open_checkpoint(find_model(model, offline=offline, report=_note if sys.stderr.isatty() else silent))
    tokenizer = open_tokenizer(checkpoint)
    shown, held_out = windows(tokenizer.encode(read_text(text)[:MOST_CHARACTERS]))
    network = skeleton(checkpoint.config)
    load_weights(checkpoint, network, dtype=checkpoint.dtype(EMBEDDING))
    recipe = Recipe(format=format, method=method)
    calibration, measuring = shown if method != "rtn" else [], held_out if report else []
    with progress(network.config.layers) as after:
        found = quantise(network, recipe, calibration=calibration, held_out=measuring, after=after)
    if out is not None:
        save_quantised(out, found, checkpoint=checkpoint, tokenizer=tokenizer)
        print(out)
    for line in table(rows(found, checkpoint)) if report else ():
        print(line)


def rows(found: "Quantised", checkpoint: "Checkpoint") -> list[tuple[str, ...]]:
    """The table: the model in 16 bits, and what became of it."""
    import math

    from octavo.weights.save_quantised import tensors_of

    measured = found.measured
    assert measured is not None
    whole = sum(2 * math.prod(checkpoint.shape(name)) for name in checkpoint.names)
    small = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors_of(found).values())
    recipe, tokens = found.recipe, len(measured.kl_T)
    far = f"{measured.kl_T.mean():.5f}", f"{measured.kl_T.quantile(0.99):.5f}"
    return [
        (f"{tokens:,} tokens", "KL, nats per token", "99th percentile", "perplexity", "bytes"),
        ("16 bits", "", "", f"{math.exp(measured.plain_T.mean()):.3f}", f"{whole:,}"),
        (f"{recipe.format} {recipe.method}", *far, f"{math.exp(measured.surprise_T.mean()):.3f}", f"{small:,}"),
    ]


def read_text(path: Path | None) -> str:
    """The user's text; without one, the manual that comes with Python. Raises RequestError."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics.values())
    most_bytes = MOST_CHARACTERS * 4  # the longest of UTF-8
    return beginning(path, most_bytes=most_bytes, needed="a text file", pipes=True).decode("utf-8", errors="replace")


def open_tokenizer(checkpoint: "Checkpoint") -> "Tokenizer":
    """The tokenizer that came with a model."""
    from octavo.text.tokenizer import Tokenizer

    source = checkpoint.tokenizer_source
    return Tokenizer.from_folder(source) if isinstance(source, Path) else Tokenizer.from_gguf_fields(source)


@contextmanager
def progress(layers: int) -> Generator[Callable[[int], None]]:
    """A bar on stderr, told how many layers are done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("quantising", total=layers)
        yield lambda done: bar.update(task, completed=done)


def _note(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)

"""`octavo serve`: models behind one address."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.settings import DRAFT, WEIGHTS, Weights


def serve(
    models: Annotated[list[str], typer.Argument(help="Folder, GGUF file, org/name, or URL of another server; NAME= "
                                                "before it says what to call it.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    weights: Annotated[Weights | None, typer.Option(help=WEIGHTS)] = None,
    draft: Annotated[str | None, typer.Option(help=DRAFT)] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    prices: Annotated[Path | None, typer.Option(help="TOML file: [models.\"NAME\"] with prompt, cached and output, per "
                                                     "million tokens.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Requests that one model works on at once.")] = 32,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everybody in, from other machines too.")] = False,
) -> None:  # fmt: skip
    """Serve models to OpenAI, Anthropic and other clients, and a web page to talk to them."""
    from octavo.serve.gateway.fair import Bounds
    from octavo.serve.gateway.gateway import Options
    from octavo.serve.gateway.state import state_folder
    from octavo.serve.link import Open
    from octavo.serve.run import Place, serve_forever

    openings = [Open(source, name, weights, draft, offline) for name, source in map(named, models)]
    options = Options(folder=state_folder(), prices=prices, bounds=Bounds(slots=jobs))
    sys.exit(serve_forever(openings, Place(host=host, port=port, insecure=insecure), options))


def named(text: str) -> tuple[str, str]:
    """Name and source of NAME=SOURCE; without a name, the last part of the source."""
    name, equals, source = text.partition("=")
    if equals and "/" not in name and ":" not in name:
        return name, source
    return text.rstrip("/").rpartition("#")[2].rpartition("/")[2], text

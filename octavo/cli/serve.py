"""`octavo serve`: models behind one address."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from octavo.cli.settings import DRAFT, WEIGHTS, Weights

Log = Literal["text", "json", "off"]


def serve(
    models: Annotated[list[str], typer.Argument(help="Folder, GGUF file, org/name, or URL of another server; NAME= "
                                                "before it says what to call it.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    weights: Annotated[Weights | None, typer.Option(help=WEIGHTS)] = None,
    draft: Annotated[str | None, typer.Option(help=DRAFT)] = None,
    memory: Annotated[float | None, typer.Option(min=0, help="Gigabytes that all models together may take; the one "
                                                 "longest unused is let go for another.")] = None,
    keep_alive: Annotated[float | None, typer.Option(min=0, help="Let a model go that nobody asked for so many "
                                                     "seconds.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Let POST /v1/models/NAME/reload read a model's files again: "
                                         "one that is being trained. Nothing packed is kept.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="Name by which clients may call this server, beside its "
                                                              "address; repeatable.")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="Origin of web pages that may call this server "
                                                                "(CORS); repeatable.")] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest body of a request, in MiB.")] = 32,
    log: Annotated[Log, typer.Option(help="How requests are logged on stderr: text, json or off.")] = "text",
    otel: Annotated[str, typer.Option(help="OpenTelemetry endpoint that spans go to (octavo[otel]).")] = "",
    prices: Annotated[Path | None, typer.Option(help="TOML file: [models.\"NAME\"] with prompt, cached and output, per "
                                                     "million tokens.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Requests that one model works on at once.")] = 32,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everybody in, from other machines too.")] = False,
) -> None:  # fmt: skip
    """Serve models to OpenAI, Anthropic and other clients, and a web page to talk to them."""
    from octavo.serve.gateway.fair import Bounds
    from octavo.serve.gateway.gateway import Options
    from octavo.serve.gateway.state import state_folder
    from octavo.serve.guard import Walls
    from octavo.serve.link import Open
    from octavo.serve.models import Care
    from octavo.serve.run import Place, serve_forever

    openings = [Open(source, name, weights, draft, offline) for name, source in map(named, models)]
    walls = Walls(hosts=tuple(allow_host or ()), origins=tuple(allow_origin or ()), body_bytes=max_body << 20)
    care = Care(memory_bytes=None if memory is None else int(memory * 1e9), keep_alive_s=keep_alive,
                reloads=reload)  # fmt: skip
    options = Options(folder=state_folder(), prices=prices, bounds=Bounds(slots=jobs))
    place = Place(host=host, port=port, walls=walls, log=log, otel=otel, insecure=insecure)
    sys.exit(serve_forever(openings, place, options, care=care))


def named(text: str) -> tuple[str, str]:
    """Name and source of NAME=SOURCE; without a name, the last part of the source."""
    name, equals, source = text.partition("=")
    if equals and "/" not in name and ":" not in name:
        return name, source
    return text.rstrip("/").rpartition("#")[2].rpartition("/")[2], text

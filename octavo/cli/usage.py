"""`octavo usage`: what was used, from the server's ledger."""

from typing import Annotated, Literal

import typer

from octavo.cli.clean import one_line

By = Literal["key", "model", "day"]


def usage(
    by: Annotated[By, typer.Option(help="Totals of what.")] = "key",
    days: Annotated[float | None, typer.Option(min=0, help="Of the last so many days only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array; money in millionths.")] = False,
) -> None:
    """Show requests, tokens and prices per key, model or day (UTC): from the database, so no server has to run."""
    import time

    import msgspec

    from octavo.cli.api_keys import database
    from octavo.cli.models import table
    from octavo.serve.gateway.ledger import usage_by

    with database() as db:
        rows = usage_by(db, by, since=0.0 if days is None else time.time() - days * 86400)
    if json:
        print(msgspec.json.encode(rows).decode())
        return
    names = [by, "requests", "batch", "prompt", "cached", "output", "reasoning", "lost", "errors"]
    shown = [[one_line(str(row[n])) or "-" if n == by else f"{row[n]:,}" for n in names]
             + [f"{row['micro'] / 1e6:,.6f}"] for row in rows]  # fmt: skip
    for line in table([[*names, "price"], *shown]):
        print(line)

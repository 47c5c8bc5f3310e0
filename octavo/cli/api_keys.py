"""Keys of the server: made, listed, revoked, limited. Works on the database, whether or not a server runs."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.clean import exact, one_line

if TYPE_CHECKING:
    import sqlite3

    from octavo.serve.gateway.limits import Terms

NAME = "The key's name or id."
RPM = "Requests per minute; -1: no limit."
TPM = "Tokens of prompts and replies per minute; -1: no limit."
ONE_MODEL = "The limits per minute are for this model alone, beside those for all together."
MONTHLY = "Budget of each calendar month (UTC): 5.00 is money, 200000t tokens; -1: none."
IN_ALL = "Budget in all, as the monthly one."
PRIORITY = "-8..8: a step up doubles the key's share where tenants compete."

Rpm = Annotated[int | None, typer.Option(min=-1, help=RPM)]
Tpm = Annotated[int | None, typer.Option(min=-1, help=TPM)]
Model = Annotated[str, typer.Option("--model", help=ONE_MODEL)]
Month = Annotated[str | None, typer.Option("--monthly", help=MONTHLY)]
Total = Annotated[str | None, typer.Option("--budget", help=IN_ALL)]
Priority = Annotated[int | None, typer.Option(min=-8, max=8, help=PRIORITY)]


def create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    *,
    workspace: Annotated[str, typer.Option(help="Its keys share cached prompts, files and batches.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="It expires after so many days.")] = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    model: Model = "",
    monthly: Month = None,
    budget: Total = None,
    priority: Priority = None,
) -> None:
    """Make a key. It is shown this once: only its hash is kept."""
    from octavo.serve.gateway import keys
    from octavo.serve.gateway.limits import Terms

    terms = changed(Terms(), model, rpm=rpm, tpm=tpm, monthly=monthly, budget=budget, priority=priority)
    expires = None if days is None else time.time() + days * 86400
    with database() as db:
        key, text = keys.create(
            db, exact(name, what="the name"), workspace=exact(workspace, what="--workspace"), expires=expires,
            terms=terms,
        )  # fmt: skip
    print(f"{key.id}, kept by its hash alone: this is the only time that the key is shown.", file=sys.stderr)
    print(text)


def list_all(json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """List the keys and their limits."""
    import msgspec

    from octavo.cli.models import table
    from octavo.serve.gateway import keys

    with database() as db:
        found = keys.every(db)
    if json:
        shown = [{**msgspec.to_builtins(key), "sha256": key.sha256.hex()} for key in found]
        print(msgspec.json.encode(shown).decode())
        return
    if not found:
        print("No key is here, so the server asks for none: octavo keys create NAME", file=sys.stderr)
    rows = [(k.id, one_line(k.name), one_line(k.workspace) or "-", _state(k), _terms(k.terms)) for k in found]
    for line in table([("id", "name", "workspace", "state", "limits"), *rows] if rows else []):
        print(line)


def revoke(name: Annotated[str, typer.Argument(help=NAME)]) -> None:
    """A key opens nothing any more, at running servers within a second; its usage stays."""
    from octavo.serve.gateway import keys

    with database() as db:
        key = keys.named(db, name)
        keys.revoke(db, key)
    print(f"{one_line(key.name)} ({key.id}) is revoked", file=sys.stderr)


def limits(
    name: Annotated[str, typer.Argument(help=NAME)],
    *,
    rpm: Rpm = None,
    tpm: Tpm = None,
    model: Model = "",
    monthly: Month = None,
    budget: Total = None,
    priority: Priority = None,
) -> None:
    """Show or change what a key may do; what is not named stays."""
    from octavo.serve.gateway import keys

    with database() as db:
        key = keys.named(db, name)
        terms = changed(key.terms, model, rpm=rpm, tpm=tpm, monthly=monthly, budget=budget, priority=priority)
        if terms != key.terms:
            keys.change(db, key, terms)
    print(f"{one_line(key.name)}: {_terms(terms)}")


def changed(old: "Terms", model: str, *, rpm: int | None, tpm: int | None, monthly: str | None, budget: str | None,
            priority: int | None) -> "Terms":  # fmt: skip
    """Terms with what was named in them."""
    from msgspec.structs import replace

    from octavo.serve.gateway.limits import Limits

    of = old.models.get(exact(model, what="--model"), Limits()) if model else old.limits
    given = {name: None if value < 0 else value for name, value in (("rpm", rpm), ("tpm", tpm)) if value is not None}
    new: dict[str, Any] = {}
    if given:
        of = replace(of, **given)
        new = {"models": {**old.models, model: of}} if model else {"limits": of}
    if monthly is not None:
        new["month"] = _budget(monthly, "--monthly")
    if budget is not None:
        new["total"] = _budget(budget, "--budget")
    if priority is not None:
        new["priority"] = priority
    return replace(old, **new)


def _budget(text: str, option: str) -> Any:
    from octavo.serve.gateway.limits import Budget

    try:
        if text.strip() == "-1":
            return Budget()
        if text.endswith("t"):
            return Budget(tokens=int(text[:-1]))
        return Budget(micro=round(float(text) * 1e6))
    except (ValueError, OverflowError) as cause:
        raise typer.BadParameter(
            f"{text!r} is neither money (5.00) nor tokens (200000t).", param_hint=option
        ) from cause


def _terms(terms: "Terms") -> str:
    """For people."""
    found: list[str] = []
    for name, one in (("", terms.limits), *terms.models.items()):
        found += [f"{value:,} {unit}{' of ' + one_line(name) if name else ''}"
                  for unit, value in (("rpm", one.rpm), ("tpm", one.tpm)) if value is not None]  # fmt: skip
    for what, one in (("a month", terms.month), ("in all", terms.total)):
        found += [f"{one.tokens:,} tokens {what}"] if one.tokens is not None else []
        found += [f"{one.micro / 1e6:,.2f} {what}"] if one.micro is not None else []
    found += [f"priority {terms.priority}"] if terms.priority else []
    return ", ".join(found) or "no limits"


def _state(key: Any) -> str:
    over = key.expires is not None and key.expires <= time.time()
    return "revoked" if key.revoked is not None else "expired" if over else "alive"


@contextmanager
def database() -> Generator["sqlite3.Connection"]:
    """The server's database, made where there is none yet."""
    from octavo.serve.gateway.state import State, state_folder

    db = State(state_folder()).connect()
    try:
        yield db
    finally:
        db.close()


VERBS: dict[str, Callable[..., None]] = {"create": create, "list": list_all, "revoke": revoke, "limits": limits}

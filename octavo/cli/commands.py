"""What a line typed into the chat means: a message for the model, or a command. Pure."""

import re
from difflib import get_close_matches
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from octavo.cli.settings import Settings, with_value
from octavo.core.errors import RequestError
from octavo.core.sampling import Thinking

COMMANDS = {  # name -> argument, what it does
    "think": ("[auto]", "let the model think before it answers; auto: as it is used to"),
    "nothink": ("", "answer without thinking"),
    "budget": ("N|off", "think for at most N tokens"),
    "system": ("[TEXT]", "give the model standing instructions; without TEXT, none"),
    "set": ("[NAME VALUE]", "set a sampling field (VALUE default: the model's own); without NAME, show all"),
    "model": ("NAME", "go on with another model"),
    "save": ("FILE", "keep the conversation in a file; /save! replaces one that is there"),
    "load": ("FILE", "go on with a saved conversation"),
    "retry": ("", "answer the last message once more"),
    "clear": ("", "forget the conversation; settings stay"),
    "help": ("", "this list"),
    "quit": ("", "leave (also Ctrl-D)"),
}
ALIASES = {"exit": "quit", "no_think": "nothink", "?": "help"}
KEYS = (
    "Enter sends; Alt-Enter, or \\ at the end of a line, begins a new line; pasted text stays one message.",
    "Ctrl-C ends the thinking, then the answer; what there is of it stays in the conversation.",
    "A message that begins with / but is no command: put a space before it.",
)


class Say(Struct, frozen=True):
    """A message for the model."""

    text: str


class Command(Struct, frozen=True):
    """A command and its argument, "" where there is none. forced: it was typed with an exclamation mark."""

    name: str
    argument: str = ""
    forced: bool = False


def parse(line: str) -> Say | Command | None:
    """What the user typed; None for nothing. Raises RequestError for a command that does not exist or lacks something.

    `/think` and `/no_think` with more text after them are Qwen3's soft switches, so they are for the model.
    """
    if not line.strip():
        return None
    found = re.match(r"/([A-Za-z_]+|\?)(!?)(?:\s+(.*))?$", line.rstrip(), re.DOTALL)
    if not found:
        return Say(line.strip())
    typed, forced, argument = found[1].lower(), bool(found[2]), (found[3] or "").strip()
    name = ALIASES.get(typed, typed)
    if (name == "nothink" and argument) or (name == "think" and argument not in ("", "on", "off", "auto")):
        return Say(line.strip())
    if name not in COMMANDS:
        close = get_close_matches(name, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
        meant = f"did you mean /{close[0]}?" if close else "/help lists the commands."
        raise RequestError(f"There is no command /{found[1]}: {meant} To send it as a message, put a space before it.")
    shape = COMMANDS[name][0]
    if argument and not shape:
        raise RequestError(f"/{name} takes nothing after it; found {argument!r}.")
    if not argument and shape and not shape.startswith("["):
        raise RequestError(f"/{name} needs something after it: /{name} {shape}")
    if forced and name != "save":
        raise RequestError(f"/{name}! does not exist, only /save! does: leave the exclamation mark out.")
    return Command(name, argument, forced)


def changed(settings: Settings, command: Command) -> Settings | None:
    """The settings after a command that only changes settings; None for all other commands. Raises RequestError."""
    thinking = settings.thinking
    match command.name:
        case "think" | "nothink":
            return replace(settings, thinking=Thinking(mode=_mode(command), budget_tokens=thinking.budget_tokens))
        case "budget":
            return replace(settings, thinking=Thinking(mode=thinking.mode, budget_tokens=_budget(command.argument)))
        case "system":
            return replace(settings, system=command.argument)
        case "set" if command.argument:
            name, *value = command.argument.split(None, 1)
            if not value:
                raise RequestError(f"/set {name} needs a value: /set {name} VALUE, or /set {name} default")
            return with_value(settings, name, value[0])
        case _:
            return None


def told(settings: Settings, command: Command) -> str:
    """What to say once `settings` are in force because of `command`."""
    match command.name:
        case "think" | "nothink":
            return f"Thinking is {settings.thinking.mode}."
        case "budget":
            budget = settings.thinking.budget_tokens
            return "Thinking has no limit." if budget is None else f"Thinking ends after {budget} tokens."
        case "system":
            return "The system message is set, from the next answer on." if settings.system else "No system message."
        case _:
            name = command.argument.split()[0]
            return f"{name} = {settings.sampling.get(name, 'what the model recommends')}"


def help_lines() -> list[str]:
    """The commands and keys, one per line."""
    rows = [f"/{name} {shape}".rstrip() for name, (shape, _) in COMMANDS.items()]
    width = max(map(len, rows)) + 2
    return [f"{row:<{width}}{text}" for row, (_, text) in zip(rows, COMMANDS.values(), strict=True)] + ["", *KEYS]


def _mode(command: Command) -> Literal["auto", "on", "off"]:
    if command.name == "nothink" or command.argument == "off":
        return "off"
    return "auto" if command.argument == "auto" else "on"


def _budget(text: str) -> int | None:
    if text.lower() in ("off", "none"):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise RequestError(f"/budget needs a number of tokens or off; found {text!r}.")
    return int(text)

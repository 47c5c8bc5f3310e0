"""`octavo run`: one prompt, one answer."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from octavo.cli.clean import encodable, exact
from octavo.cli.exchange import Outcome, exchange
from octavo.cli.files import whole
from octavo.cli.screen import PlainScreen, Screen, SilentScreen, footer, open_screen, stopped
from octavo.cli.session import Session
from octavo.cli.settings import DRAFT, WEIGHTS, Settings, Weights, sampling_for, thinking_of
from octavo.core.chat import Chat
from octavo.core.deltas import FinishReason, Usage
from octavo.core.errors import RequestError
from octavo.core.messages import Message, ToolCall
from octavo.core.sources import Hub, silent
from octavo.core.strict import decode

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MOST_SCHEMA_BYTES = 16 << 20


class Result(Struct, frozen=True, kw_only=True):
    """What --json prints. text and thinking are exactly what the model wrote; thinking is null where there was none."""

    model: str
    text: str
    thinking: str | None
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    finish: FinishReason


def run(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file, org/name, or URL.")],
    prompt: Annotated[str | None, typer.Argument(help="What to say; - or nothing: read it from stdin.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object: text, thinking, usage ...")] = False,
    schema: Annotated[Path | None, typer.Option(help="File with the JSON schema of the answer.")] = None,
    system: Annotated[str, typer.Option(help="Standing instructions for the model.")] = "",
    think: Annotated[bool | None, typer.Option("--think/--no-think", help="Whether it thinks first.")] = None,
    budget: Annotated[int | None, typer.Option(min=0, help="Think for at most this many tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Write at most this many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token each time.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from this share of probability, 0 to 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from this many tokens; 0: from all.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be given often.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    hub: Annotated[Hub, typer.Option(help="Where org/name comes from.")] = "huggingface",
    weights: Annotated[Weights | None, typer.Option(help=WEIGHTS)] = None,
    draft: Annotated[str | None, typer.Option(help=DRAFT)] = None,
) -> None:  # fmt: skip
    """Say one thing to a model and print its answer; plain text where that goes into a pipe or a file."""
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed,
                "stop": tuple(exact(each, what="--stop") for each in stop or ()) or None,
                "schema": schema and read_schema(schema)}  # fmt: skip
    settings = Settings(
        system=encodable(system), thinking=thinking_of(think, budget),
        sampling={name: value for name, value in sampling.items() if value is not None},
    )  # fmt: skip
    text = prompt_text(prompt)
    from octavo.chat import load

    report = PlainScreen().note if sys.stderr.isatty() else silent
    chat = load(model, offline=offline, hub=hub, report=report, kind=weights, draft=draft)
    raise typer.Exit(say(chat, text, settings=settings, json=json))


def say(chat: Chat, text: str, *, settings: Settings = Settings(), json: bool = False) -> int:
    """Print the answer to `text`. Returns the exit code: 130 where Ctrl-C stopped it. Raises OctavoError."""
    session = Session(settings=settings).saying(Message(role="user", content=text))
    prompt = session.prompt()
    sampling = sampling_for(chat, prompt, settings)
    screen: Screen = SilentScreen() if json else open_screen(typed=False)
    outcome = exchange(partial(chat.stream, prompt, sampling=sampling, thinking=settings.thinking), screen)
    if json:
        print(as_json(chat.name, outcome), flush=True)
    elif screen.interactive and outcome.finished:
        screen.lines(["", footer(outcome.finished.usage, chat.context_tokens)])
    elif not outcome.interrupted and (why := stopped(outcome.finished, typed=False)):
        screen.note(why)
    return INTERRUPTED if outcome.interrupted else 0


def as_json(name: str, outcome: Outcome) -> str:
    """One JSON object on one line, with nothing in it that a terminal would obey."""
    finished, message = outcome.finished, outcome.message
    result = Result(
        model=name, text=message.text, thinking=message.thinking, tool_calls=message.tool_calls,
        usage=finished.usage if finished else Usage(), finish=finished.reason if finished else "cancelled",
    )  # fmt: skip
    escapes = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # JSON escapes C0 itself; this is DEL and C1
    return msgspec.json.encode(result).decode().translate(escapes)


def prompt_text(prompt: str | None) -> str:
    """The prompt as given, or all of stdin for - or None. Raises BadParameter or RequestError without one."""
    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter('there is none: octavo run MODEL "what to say", or pipe it in.', param_hint="PROMPT")
    text = sys.stdin.read() if prompt in (None, "-") else prompt
    if not text or not text.strip():
        raise RequestError('The prompt is empty: octavo run MODEL "what to say", or pipe some text in.')
    return encodable(text)


def read_schema(path: Path) -> dict[str, Any] | bool:
    """The JSON schema in a file or pipe: an object, or true or false. Raises RequestError."""
    data = whole(path, most_bytes=MOST_SCHEMA_BYTES, needed="a file with a JSON schema", pipes=True)
    kind: Any = dict[str, Any] | bool
    return decode(data, kind, what=f"{path} is no JSON schema", error=RequestError)

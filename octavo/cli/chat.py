"""`octavo chat`: talk to a model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import typer
from msgspec.structs import replace

from octavo.cli import commands
from octavo.cli import session as sessions
from octavo.cli.clean import encodable, one_line
from octavo.cli.exchange import Outcome, exchange
from octavo.cli.idle import idling
from octavo.cli.keys import LineReader, PromptReader, Reader, state_file
from octavo.cli.screen import Screen, footer, open_screen, stopped
from octavo.cli.session import Session
from octavo.cli.settings import (
    DRAFT,
    WEIGHTS,
    Recommends,
    Settings,
    Weights,
    describe,
    recommended,
    sampling_for,
    thinking_of,
)
from octavo.core.chat import Chat, Reply
from octavo.core.errors import OctavoError, RequestError
from octavo.core.messages import Message
from octavo.core.sources import Hub

Load = Callable[[str], Chat]
LARGER = "Qwen/Qwen3-0.6B"


def chat(
    model: Annotated[str | None, typer.Argument(help="Folder, GGUF file, org/name, or URL of an OpenAI-compatible "
                                                "server. Without it: the best model that is already here.")] = None,
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    system: Annotated[str, typer.Option(help="Standing instructions for the model.")] = "",
    think: Annotated[bool | None, typer.Option("--think/--no-think", help="Whether it thinks first.")] = None,
    budget: Annotated[int | None, typer.Option(min=0, help="Think for at most this many tokens.")] = None,
    hub: Annotated[Hub, typer.Option(help="Where org/name comes from.")] = "huggingface",
    weights: Annotated[Weights | None, typer.Option(help=WEIGHTS)] = None,
    draft: Annotated[str | None, typer.Option(help=DRAFT)] = None,
) -> None:  # fmt: skip
    """Talk to a model. /help lists what you can type; Ctrl-C stops an answer, Ctrl-D leaves."""
    from octavo.chat import load
    from octavo.cli.doctor import runs_on
    from octavo.weights.memory import available_bytes

    settings = Settings(system=encodable(system), thinking=thinking_of(think, budget))
    screen = open_screen()

    def open_model(source: str | None) -> Chat:
        return load(source, offline=offline, hub=hub, report=screen.note, kind=weights, draft=draft)

    talker = open_model(model)
    greeting = [runs_on()] if isinstance(talker, Recommends) else []
    greeting += larger_than(talker.name, available_bytes()) if model is None else []
    raise typer.Exit(talk(talker, settings=settings, greeting=greeting, load=open_model, screen=screen))


def talk(
    chat: Chat,
    *,
    settings: Settings = Settings(),
    greeting: Sequence[str] = (),
    load: Load | None = None,
    screen: Screen | None = None,
    reader: Reader | None = None,
) -> int:
    """Hold a conversation until the user leaves. Returns the exit code: 1 where a pipe's message failed, else 0.

    greeting: what to say at the start;   load: opens another model for /model; None: there is no other
    screen, reader: None: what stdin and stdout allow
    """
    screen = screen or open_screen()
    if reader is None:
        reader = PromptReader(screen.note, words=[f"/{name}" for name in commands.COMMANDS]) \
            if screen.interactive else LineReader()  # fmt: skip
    screen.lines([_talking_to(chat), *greeting, "/help lists what you can type."])
    return Talk(chat, settings, screen=screen, reader=reader, load=load).run()


class Talk:
    """A conversation going on."""

    def __init__(self, chat: Chat, settings: Settings, *, screen: Screen, reader: Reader, load: Load | None) -> None:
        self.chat, self.screen, self.reader, self.load = chat, screen, reader, load
        self.session = Session(model=chat.name, settings=settings)
        self.offered = ""  # a message that could not be answered, given back for editing
        self.failed = False

    def run(self) -> int:
        """Read, answer, and so on."""
        while True:
            try:
                offered, self.offered = self.offered, ""
                with idling(self.chat):
                    line = self.reader.read(offered)
                if line is None or not self._do(line):
                    break
            except OctavoError as error:
                self.failed = True
                self.screen.error(str(error))
            except KeyboardInterrupt:
                if not self.screen.interactive:
                    raise
                self.screen.note("Stopped. Ctrl-D or /quit leaves.")
            except Exception:  # a bug of ours, or no place for what we write: the conversation is to outlive it
                self._rescue()
                raise
        return int(self.failed and not self.screen.interactive)

    def _rescue(self) -> None:
        path = state_file("rescued.json")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sessions.save(self.session, path, replacing=True)
        self.screen.error(f"The program has to end. To go on: octavo chat, then /load {path}")

    def _do(self, line: str) -> bool:
        """Do what a line says; False: leave."""
        match commands.parse(line):
            case None:
                return True
            case commands.Say(text):
                self._answer(self.session.saying(Message(role="user", content=text)), typed=text)
                return True
            case commands.Command() as command:
                return self._command(command)

    def _command(self, command: commands.Command) -> bool:
        settings = commands.changed(self.session.settings, command)
        if settings is not None:
            self.session = replace(self.session, settings=settings)
            self.screen.note(commands.told(settings, command))
            return True
        actions: dict[str, Callable[[commands.Command], None]] = {
            "set": self._show_settings, "model": self._model, "save": self._save, "load": self._load,
            "retry": self._retry, "clear": self._clear, "help": self._help,
        }  # fmt: skip
        if command.name == "quit":
            return False
        actions[command.name](command)
        return True

    def _answer(self, session: Session, *, typed: str = "") -> None:
        """Let the model answer the last message of `session`. Only then is `session` the conversation."""
        prompt, settings = session.prompt(), session.settings
        sampling = sampling_for(self.chat, prompt, settings)
        begin: Callable[[], Reply] = partial(self.chat.stream, prompt, sampling=sampling, thinking=settings.thinking)
        try:
            outcome = exchange(begin, self.screen)
        except OctavoError:
            self.offered = typed
            raise
        if outcome.is_empty and outcome.interrupted:
            self.offered = typed
            self.screen.note("Stopped before the answer began.")
        else:
            self.session = session.saying(outcome.message)
            self._after(outcome)
        if outcome.interrupted and not self.screen.interactive:
            raise KeyboardInterrupt

    def _after(self, outcome: Outcome) -> None:
        if why := stopped(outcome.finished, typed=True):
            self.screen.note(why)
        if outcome.finished and self.screen.interactive:
            self.screen.lines(["", footer(outcome.finished.usage, self.chat.context_tokens), ""])

    def _show_settings(self, command: commands.Command) -> None:
        settings = self.session.settings
        self.screen.lines(describe(settings, recommended(self.chat, self.session.prompt(), settings.thinking)))

    def _model(self, command: commands.Command) -> None:
        if self.load is None:
            raise RequestError("There is no other model to go on with here.")
        try:
            self.chat = self.load(command.argument)
        except KeyboardInterrupt:
            self.screen.note(f"Stopped. Still talking to {one_line(self.chat.name)}.")
            return
        self.session = replace(self.session, model=self.chat.name)
        self.screen.note(_talking_to(self.chat))

    def _save(self, command: commands.Command) -> None:
        path = sessions.file_named(command.argument)
        sessions.save(self.session, path, replacing=command.forced)
        self.screen.note(f"Saved {_messages(self.session)} to {path}.")

    def _load(self, command: commands.Command) -> None:
        path = sessions.file_named(command.argument)
        found = sessions.load(path)
        self.session = replace(found, model=self.chat.name)
        other = f" It was held with {one_line(found.model)}." if found.model not in ("", self.chat.name) else ""
        self.screen.note(f"Loaded {_messages(found)} from {path}.{other}")
        self.screen.lines([_excerpt(message) for message in found.messages[-2:]])

    def _retry(self, command: commands.Command) -> None:
        self._answer(self.session.reopened())

    def _clear(self, command: commands.Command) -> None:
        self.session = replace(self.session, messages=())
        self.screen.note("The conversation is forgotten; settings stay.")

    def _help(self, command: commands.Command) -> None:
        self.screen.lines(commands.help_lines())


def larger_than(name: str, available: int) -> list[str]:
    """How to get the next larger Qwen3, where `available` bytes of memory hold it: one line, or none."""
    from octavo.weights.memory import SMALLER, gigabytes

    sizes = list(reversed(SMALLER.items()))
    known = [i for i, (larger, _) in enumerate(sizes) if larger.partition("/")[2] in name]
    fits = [(larger, size) for larger, size in sizes[max(known, default=-1) + 1 :][:1] if size <= available]
    return [f"A larger model: octavo chat {larger}, or /model {larger} ({gigabytes(size)} of memory)"
            for larger, size in fits]  # fmt: skip


def _talking_to(chat: Chat) -> str:
    context = f", {chat.context_tokens:,} tokens of context" if chat.context_tokens else ""  # an endpoint may not say
    return f"Talking to {one_line(chat.name)}{context}."


def _messages(session: Session) -> str:
    count = len(session.messages)
    return f"{count} message{'' if count == 1 else 's'}"


def _excerpt(message: Message, *, limit: int = 200) -> str:
    text: Sequence[str] = one_line(message.text)
    return f"{message.role}: {text[:limit]}{' …' if len(text) > limit else ''}"

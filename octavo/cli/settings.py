"""What the user chose for a conversation, and the sampling that follows from it."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from octavo.core.chat import Chat
from octavo.core.errors import RequestError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking, overridden

NUMBERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
           "max_tokens", "seed")  # fmt: skip
Weights = Literal["bf16", "w8", "w4", "stored", "plain"]
WEIGHTS = "How the weights lie in memory: as stored in a GGUF file, bf16, w8, w4 (smallest, fastest), plain fp32."
DRAFT = "A small model of the same vocabulary that guesses tokens ahead: faster, and the same answer."
TEXTS = ("stop", "choice", "regex", "schema")
SETTABLE = (*NUMBERS, *TEXTS)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one conversation. sampling: only the fields that the user set; the rest is what the model recommends."""

    system: str = ""
    thinking: Thinking = Thinking()
    sampling: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Raise RequestError for sampling fields that do not exist or hold what they may not."""
        checked(self.sampling, base=Sampling())


class Recommending(Protocol):
    """A chat format that knows the sampling its model was made for."""

    def recommended(self, thinking_on: bool) -> Sampling:
        """What the model's makers recommend for the mode."""
        ...

    def effective_thinking(self, messages: Sequence[Message], thinking: Thinking) -> bool:
        """Whether the model will think."""
        ...


@runtime_checkable
class Recommends(Protocol):
    """A chat with such a format: `LocalChat` is one."""

    @property
    def form(self) -> Recommending:
        """The chat format."""
        ...


def recommended(chat: Chat, messages: Sequence[Message], thinking: Thinking) -> Sampling:
    """What the chat would use of itself; the plain defaults where it does not say."""
    if isinstance(chat, Recommends):
        return chat.form.recommended(chat.form.effective_thinking(messages, thinking))
    return Sampling()


def sampling_for(chat: Chat, messages: Sequence[Message], settings: Settings) -> Sampling | None:
    """The sampling of a request: None, so the model's own, where the user set nothing."""
    if not settings.sampling:
        return None
    return checked(settings.sampling, base=recommended(chat, messages, settings.thinking))


def checked(fields: dict[str, Any], *, base: Sampling) -> Sampling:
    """`base` with `fields` in it. Raises RequestError naming a field that is unknown or holds what it may not."""
    unknown = sorted(set(fields) - set(SETTABLE))
    if unknown:
        raise RequestError(f"{unknown[0]} cannot be set: choose one of {', '.join(SETTABLE)}.")
    return overridden(base, fields)


def with_value(settings: Settings, name: str, value: str) -> Settings:
    """`settings` with one sampling field set from what the user typed; "default" gives it back to the model.

    Numbers and schema are JSON; stop and choice are one text or a JSON list of texts; regex is taken as typed.
    Raises RequestError for an unknown name or a value that the field cannot have.
    """
    if name not in SETTABLE:
        raise RequestError(f"There is no setting {name!r}: choose one of {', '.join(SETTABLE)}.")
    fields = {key: old for key, old in settings.sampling.items() if key != name}
    if value != "default":
        fields[name] = _value(name, value)
    return replace(settings, sampling=fields)


def _value(name: str, value: str) -> Any:
    if name == "regex":
        return value
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as cause:
        if name in ("stop", "choice"):
            return (value,)
        kind = "a JSON object" if name == "schema" else "a number"
        raise RequestError(f"{name} needs {kind}, or default; found {value!r}.") from cause
    if name in ("stop", "choice") and not isinstance(found, list):
        return (found if isinstance(found, str) else value,)
    return found


def thinking_of(think: bool | None, budget: int | None) -> Thinking:
    """What the options --think/--no-think and --budget ask for. Raises RequestError for a negative budget."""
    return Thinking(mode="auto" if think is None else "on" if think else "off", budget_tokens=budget)


def describe(settings: Settings, base: Sampling) -> list[str]:
    """One line per setting: the value in force, and whether the user or the model chose it."""
    budget = settings.thinking.budget_tokens
    lines = [
        f"thinking             {settings.thinking.mode}",
        f"budget               {'off' if budget is None else f'{budget} tokens'}",
        f"system               {settings.system or 'none'}",
    ]
    now = checked(settings.sampling, base=base)
    for name in SETTABLE:
        value = getattr(now, name)
        if name in NUMBERS or name in settings.sampling:
            chosen = "set by you" if name in settings.sampling else "as the model recommends"
            lines.append(f"{name:<20} {'none' if value is None else msgspec.json.encode(value).decode()}  ({chosen})")
    return lines

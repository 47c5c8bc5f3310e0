"""What happens to a request, piece by piece: the one stream that every dialect writes to its wire, and remotes send.

For each reply (`index`): Reasoning before Text before tool calls, unless the model thinks in between; of each call
ToolStart, ToolArgs (any number), ToolEnd; then Finish. After the last Finish comes one Usage. An Error ends all.
"""

from msgspec import Struct

from octavo.core.deltas import FinishReason, TokenLogprob


class Start(Struct, frozen=True, array_like=True, tag="s"):
    """The prompt was taken.   prompt_tokens   its length; 0 where a remote engine does not say"""

    prompt_tokens: int = 0


class Reasoning(Struct, frozen=True, array_like=True, tag="r"):
    """More of the thinking."""

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Text(Struct, frozen=True, array_like=True, tag="t"):
    """More of the answer. logprobs: of the tokens since the last event that had any, where they were asked for."""

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class ToolStart(Struct, frozen=True, array_like=True, tag="c"):
    """A tool call begins.   call: its number within the reply, from 0"""

    id: str
    name: str
    call: int = 0
    index: int = 0


class ToolArgs(Struct, frozen=True, array_like=True, tag="a"):
    """More of a call's arguments, JSON text."""

    text: str
    call: int = 0
    index: int = 0


class ToolEnd(Struct, frozen=True, array_like=True, tag="e"):
    """A call is whole."""

    call: int = 0
    index: int = 0


class Finish(Struct, frozen=True, array_like=True, tag="f"):
    """A reply is at its end.   stop: the stop string that ended it, "" where none did;   tokens: the ids behind it"""

    reason: FinishReason
    index: int = 0
    stop: str = ""
    tokens: tuple[int, ...] = ()


class Usage(Struct, frozen=True, array_like=True, tag="u"):
    """Tokens of all replies together. cached is part of prompt, reasoning of completion.

    prefill_s: seconds from submission to the first token, queueing in the engine included;   decode_s: from then on
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    thinking_stop: str = ""  # natural, budget or user; "" where no thinking ended


class Error(Struct, frozen=True, array_like=True, tag="x"):
    """It cannot go on.   kind: a key of `errors.STATUS`;   retry_after_s: when to come again, None: as the kind says;
    code: for programs, "" for none"""

    message: str
    kind: str = "server_error"
    retry_after_s: float | None = None
    code: str = ""


Event = Start | Reasoning | Text | ToolStart | ToolArgs | ToolEnd | Finish | Usage | Error

"""What a running reply sends, piece by piece. `index` is the reply's number where a request asked for several."""

from typing import Literal

from msgspec import Struct

from octavo.core.messages import Message, ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of one reply. cached is part of prompt; thinking (closing included) and forced are part of completion.

    closing_tokens: of thinking, what closes it: the tag, forced text, the gap. The rest is what a budget counts.
    prefill_s: seconds from submission to the first token; decode_s: from then to the last.
    thinking_stop: how the thinking ended; None where there was none or it never ended.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    closing_tokens: int = 0
    forced_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    thinking_stop: Literal["natural", "budget", "user"] | None = None


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """A chosen token's log-probability in nats (None where the token was forced), and the likeliest beside it.

    data   the token's bytes, perhaps part of a character;   top   of each: token, bytes, log-probability
    """

    token: int
    data: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class ThinkingDelta(Struct, frozen=True, kw_only=True, tag="thinking"):
    """More of the thinking. forced: text that the budget put in, which the model did not choose."""

    text: str
    forced: bool = False
    index: int = 0


class TextDelta(Struct, frozen=True, kw_only=True, tag="text"):
    """More of the answer."""

    text: str
    index: int = 0


class ToolCallDelta(Struct, frozen=True, kw_only=True, tag="tool_call"):
    """One whole tool call."""

    call: ToolCall
    index: int = 0


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The last delta of each reply: the whole message, why it ended, what it used, and the tokens behind it.

    stop: the stop string that ended it; "" where none did
    """

    message: Message
    reason: FinishReason
    usage: Usage
    stop: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0


Delta = ThinkingDelta | TextDelta | ToolCallDelta | Finished

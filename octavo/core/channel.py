"""Which part of a conversation a token belongs to, and the token ids that mark the borders."""

from enum import IntEnum

from msgspec import Struct


class Channel(IntEnum):
    """Every token carries one; streaming, usage, budget, grammar and cache policy read it."""

    PROMPT = 0  # given, not generated
    THINKING = 1  # from the opening tag (included, when generated) to the closing tag
    CLOSING = 2  # the closing tag, forced early-stop text, and the gap after the tag
    ANSWER = 3
    TOOL = 4  # outside thinking, from the tool-call tag to its closing tag, both included


class Markers(Struct, frozen=True, kw_only=True):
    """Token ids of a chat format's borders; None where the model has no such single token.

    turn_open    begins each turn in the prompt: what lies before the last one says nothing of the running turn
    early_stop   tokens forced when the thinking budget is used up; holds think_close, and all that follows it up to
                 the answer (Qwen3: 24 tokens, docs quickstart of Qwen3)
    gap          tokens the model writes between think_close and the answer ("\\n\\n" for Qwen3)
    end          tokens that end the reply
    """

    think_open: int | None = None
    think_close: int | None = None
    tool_open: int | None = None
    tool_close: int | None = None
    turn_open: int | None = None
    early_stop: tuple[int, ...] = ()
    gap: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

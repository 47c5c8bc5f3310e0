"""`Job`: what a client wants of a model, whatever dialect it was said in. Dialects make it, engines do it."""

from typing import Any, Literal

from msgspec import Struct

from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking


class ToolChoice(Struct, frozen=True, kw_only=True):
    """Whether the reply must, may or must not call tools.

    only       names that may be called; empty: all
    parallel   whether it may make several calls
    strict     tools whose arguments must match their schema even where a call is not forced
    """

    mode: Literal["auto", "none", "required"] = "auto"
    only: tuple[str, ...] = ()
    parallel: bool = True
    strict: tuple[str, ...] = ()


class Job(Struct, frozen=True, kw_only=True):
    """One request to a model.

    prompts    texts as they stand, without a chat format, or their tokens; none: `messages` are asked
    scored     log-probabilities of the prompts' own tokens are wanted too: they come first, as Text
    sampling   only the options that the client set; the rest is what the model recommends
    resume     go on with the last message, an assistant's, instead of answering it
    patient    its prompt gives way to those of others
    space      whose cached prompts it may meet: one per tenant, see `octavo.engine.types.Request`
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    scored: bool = False
    tools: tuple[ToolSpec, ...] = ()
    choice: ToolChoice = ToolChoice()
    sampling: dict[str, Any] = {}
    thinking: Thinking = Thinking()
    resume: bool = False
    patient: bool = False
    space: str = ""

    @property
    def replies(self) -> int:
        """How many replies it asks for: to each prompt as many, numbered one prompt after the other."""
        return int(self.sampling.get("n", 1)) * max(1, len(self.prompts))

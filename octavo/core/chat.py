"""The `Chat` protocol: messages in, deltas out. And `ScriptedChat`, a test double for what stands above a model."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, ToolCallDelta, Usage
from octavo.core.errors import RequestError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking


class Reply(Protocol):
    """A running reply: iterate over its deltas; the last of each index is `Finished`."""

    def __iter__(self) -> Iterator[Delta]: ...

    def cancel(self) -> None:
        """Stop at the next token; `Finished` follows with reason "cancelled" and what there is so far."""
        ...

    def end_thinking(self) -> None:
        """Close the thinking now and go on to the answer; does nothing where the model is not thinking."""
        ...


class Chat(Protocol):
    """A model to talk to, here or elsewhere.

    name: what to call it;   context_tokens: longest prompt plus reply, 0: unknown
    """

    name: str
    context_tokens: int

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sampling: Sampling | None = None,
        thinking: Thinking = Thinking(),
    ) -> Reply:
        """Begin a reply. sampling None: what the model recommends for the mode. OctavoError comes before any delta."""
        ...


def complete(
    chat: Chat,
    messages: Sequence[Message],
    *,
    tools: Sequence[ToolSpec] = (),
    sampling: Sampling | None = None,
    thinking: Thinking = Thinking(),
) -> tuple[Finished, ...]:
    """Run a reply to its end: one `Finished` per reply, ordered by index."""
    reply = chat.stream(messages, tools=tools, sampling=sampling, thinking=thinking)
    return tuple(sorted((d for d in reply if isinstance(d, Finished)), key=lambda d: d.index))


class ScriptedReply:
    """The reply of a `ScriptedChat`: line by line, stoppable at each."""

    def __init__(self, message: Message) -> None:
        self.message, self.cancelled, self.thinking_ended = message, False, False

    def cancel(self) -> None:
        """Stop before the next line."""
        self.cancelled = True

    def end_thinking(self) -> None:
        """Leave out the rest of the thinking."""
        self.thinking_ended = True

    def __iter__(self) -> Iterator[Delta]:
        thinking, text = "", ""
        for line in (self.message.thinking or "").splitlines(keepends=True):
            if not self.cancelled and not self.thinking_ended:
                thinking += line
                yield ThinkingDelta(text=line)
        for line in self.message.text.splitlines(keepends=True):
            if not self.cancelled:
                text += line
                yield TextDelta(text=line)
        calls = () if self.cancelled else self.message.tool_calls
        for call in calls:
            yield ToolCallDelta(call=call)
        message = Message(role="assistant", content=text, thinking=thinking or None, tool_calls=calls)
        reason = "cancelled" if self.cancelled else "tool_calls" if calls else "stop"
        yield Finished(message=message, reason=reason, usage=Usage(completion_tokens=len(text.split())))


class ScriptedChat:
    """Says the given messages one after the other and keeps what it was asked in `asked`."""

    def __init__(self, script: Sequence[Message], *, name: str = "scripted", context_tokens: int = 4096) -> None:
        self.name, self.context_tokens = name, context_tokens
        self.script = list(script)
        self.asked: list[tuple[Message, ...]] = []

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sampling: Sampling | None = None,
        thinking: Thinking = Thinking(),
    ) -> ScriptedReply:
        """The next message of the script. Raises RequestError when the script is at its end."""
        if not self.script:
            raise RequestError("the script has no more messages: give ScriptedChat one per reply.")
        self.asked.append(tuple(messages))
        return ScriptedReply(self.script.pop(0))

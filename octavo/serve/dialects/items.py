"""Items of the Responses dialect -> messages. What one assistant turn consists of becomes one message."""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from octavo.core.messages import Message, ToolCall
from octavo.serve.dialects.chat import flat_text
from octavo.serve.errors import Refusal
from octavo.serve.wire import convert

Item = dict[str, Any]
KINDS = ("message", "reasoning", "function_call", "function_call_output", "item_reference")


class _Said(Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class _Call(Struct):
    call_id: str
    name: str
    arguments: str


class _Output(Struct):
    call_id: str
    output: str | list[dict[str, Any]]


class _Reasoning(Struct):
    summary: list[dict[str, Any]] = []
    content: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None


def messages(items: Sequence[Item], refer: Callable[[str], Item]) -> tuple[Message, ...]:
    """Messages for items. refer: the item of an id. Raises Refusal naming the item that is not understood."""
    found: list[Message] = []
    turn: Message | None = None  # the assistant's, as long as it goes on
    for i, item in enumerate(items):
        message = _message(item, f"input[{i}]", refer)
        joined = _joined(turn, message)
        if joined is None:
            found += [turn] if turn else []
            turn = message
        else:
            turn = joined
    return (*found, *([turn] if turn else []))


def _joined(turn: Message | None, more: Message) -> Message | None:
    """A turn with what comes next, None where that begins another: thinking, then text, then calls are one."""
    if turn is None or turn.role != "assistant" or more.role != "assistant":
        return None
    if (turn.tool_calls and not more.tool_calls) or (turn.text and not more.tool_calls):
        return None
    thinking = turn.thinking if more.thinking is None else (turn.thinking or "") + more.thinking
    calls = (*turn.tool_calls, *more.tool_calls)
    return Message(role="assistant", content=turn.text + more.text, thinking=thinking, tool_calls=calls)


def _message(item: Item, at: str, refer: Callable[[str], Item]) -> Message:
    given = {name: value for name, value in item.items() if value is not None}
    kind = given.get("type", "message" if "role" in given else "item_reference")
    match kind:
        case "message":
            said = convert(given, _Said, at=at)
            role = "system" if said.role == "developer" else said.role
            return Message(role=role, content=flat_text(said.content, at=f"{at}.content"))
        case "reasoning":
            return Message(role="assistant", thinking=_thinking(convert(given, _Reasoning, at=at), at))
        case "function_call":
            call = convert(given, _Call, at=at)
            calls = (ToolCall(name=call.name, arguments=call.arguments, id=call.call_id),)
            return Message(role="assistant", tool_calls=calls)
        case "function_call_output":
            result = convert(given, _Output, at=at)
            content = flat_text(result.output, at=f"{at}.output")
            return Message(role="tool", content=content, tool_call_id=result.call_id)
        case "item_reference":
            return _message(refer(convert(given.get("id"), str, at=f"{at}.id")), at, refer)
        case _:
            raise Refusal(f"{at} is of type {kind!r}: give {', '.join(KINDS)}.", param=f"{at}.type")


def _thinking(reasoning: _Reasoning, at: str) -> str:
    """The thinking: in full where it stands, else what was sealed, else its summary."""
    if reasoning.content:
        return "".join(_texts(reasoning.content, f"{at}.content"))
    if reasoning.encrypted_content:
        return unsealed(reasoning.encrypted_content, f"{at}.encrypted_content")
    return "".join(_texts(reasoning.summary, f"{at}.summary"))


def _texts(parts: Sequence[Item], at: str) -> Iterator[str]:
    for i, part in enumerate(parts):
        yield convert(part.get("text"), str, at=f"{at}[{i}].text")


def sealed(thinking: str) -> str:
    """Thinking for `encrypted_content`: for clients that send back what they need not read. It is no secret of ours."""
    return base64.b64encode(thinking.encode()).decode()


def unsealed(text: str, at: str) -> str:
    """The thinking again. Raises Refusal for what `sealed` has not written."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as cause:
        raise Refusal(f"{at} was not written by this server: leave the item out.", param=at) from cause

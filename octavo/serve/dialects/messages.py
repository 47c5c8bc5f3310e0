"""Anthropic's Messages. Source: its API reference.

Thinking that was given without a `thinking` switch is the model's default, as in the other dialects. A thinking block's
signature says nothing here and is not checked: clients may edit what they send back.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.serve import events
from octavo.serve.dialects.chat import at_least_one, flat_text, shape_of, tool_choice
from octavo.serve.errors import Refusal
from octavo.serve.job import Job, ToolChoice
from octavo.serve.stream import Collected
from octavo.serve.thinking import Switches, thinking_of
from octavo.serve.wire import Asked, Head, checked, convert, event, read

PATH = "/v1/messages"
SAME = ("temperature", "top_p", "top_k", "min_p", "seed")  # as in `Sampling`; the last two are ours
SIGNATURE = "unsigned"  # clients drop blocks that have none
ERRORS = {"insufficient_quota": "rate_limit_error", "server_error": "api_error", "overloaded": "overloaded_error"}
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "cancelled": "end_turn"}


class _Said(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _Tool(Struct):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _Result(Struct):
    tool_use_id: str
    content: str | list[dict[str, Any]] = ""


class _Choice(Struct):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Output(Struct):
    effort: str | None = None
    format: dict[str, Any] | None = None


class Request(Switches, frozen=True, kw_only=True):
    """The body of a request; what else stands there is reported as ignored."""

    model: str
    messages: list[_Said]
    max_tokens: int | None = None  # needed, but not for counting
    system: str | list[dict[str, Any]] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: _Choice | None = None
    output_config: _Output | None = None
    thread: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None


def decode(body: bytes, *, counting: bool = False) -> Asked:
    """A request. counting: it will only be counted. Raises Refusal naming the field."""
    request, ignored = read(body, Request)
    if not request.messages:
        raise Refusal("messages is empty: give at least one.", param="messages")
    if request.max_tokens is None and not counting:
        raise Refusal("max_tokens is missing: say how many tokens the reply may have.", param="max_tokens")
    if request.thread:  # by this code clients know that they have to send all of the conversation themselves
        raise Refusal("thread: this server holds no conversations for this API, send all messages with each request.",
                      param="thread", code="thread_unsupported_request")  # fmt: skip
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    job = Job(
        model=request.model, messages=messages(request), tools=tuple(_spec(tool) for tool in tools),
        choice=_choice(request.tool_choice or _Choice(), tools), sampling=_sampling(request),
        thinking=thinking_of(_switches(request)), resume=request.messages[-1].role == "assistant",
    )  # fmt: skip
    return Asked(checked(job), request.stream, Writer, ignored)


def _switches(request: Request) -> Request:
    effort = request.output_config.effort if request.output_config else None
    if effort is None:
        return request
    return msgspec.structs.replace(request, reasoning={"effort": effort, **(request.reasoning or {})})


def messages(request: Request) -> tuple[Message, ...]:
    """Messages as Octavo has them. Raises Refusal for blocks that are not text, thinking or tools."""
    found = [Message(role="system", content=flat_text(request.system, at="system"))] if request.system else []
    for i, said in enumerate(request.messages):
        at = f"messages[{i}].content"
        blocks = [{"type": "text", "text": said.content}] if isinstance(said.content, str) else said.content
        if said.role == "assistant":
            found.append(_assistant(blocks, at))
        else:
            found += _given(said.role, blocks, at)
    return tuple(found)


def _assistant(blocks: Sequence[dict[str, Any]], at: str) -> Message:
    text, thinking, calls = "", None, list[ToolCall]()
    for i, block in enumerate(blocks):
        here = f"{at}[{i}]"
        match block.get("type"):
            case "thinking":
                thinking = (thinking or "") + convert(block.get("thinking"), str, at=f"{here}.thinking")
            case "redacted_thinking":
                continue  # only who wrote it can read it
            case "tool_use":
                calls.append(_call(block, here))
            case _:
                text += flat_text([block], at=at)
    return Message(role="assistant", content=text, thinking=thinking, tool_calls=tuple(calls))


def _call(block: dict[str, Any], at: str) -> ToolCall:
    given = convert(block.get("input", {}), dict[str, Any], at=f"{at}.input")
    arguments = json.dumps(given, ensure_ascii=False)  # with spaces, as models write it
    name, id = (convert(block.get(field), str, at=f"{at}.{field}") for field in ("name", "id"))
    return ToolCall(name=name, arguments=arguments, id=id)


def _given(role: Literal["user", "system"], blocks: Sequence[dict[str, Any]], at: str) -> Iterator[Message]:
    """Results of tools as messages of their own, in order, and the text between them."""
    text: list[str] = []
    for i, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            text.append(flat_text([block], at=at))
            continue
        if text:
            yield Message(role=role, content="".join(text))
            text = []
        here = f"{at}[{i}]"
        result = convert({name: value for name, value in block.items() if value is not None}, _Result, at=here)
        content = flat_text(result.content, at=f"{here}.content")
        yield Message(role="tool", content=content, tool_call_id=result.tool_use_id)
    if text or not blocks:
        yield Message(role=role, content="".join(text))


def _tool(tool: dict[str, Any], at: str) -> _Tool:
    if tool.get("type") not in (None, "custom"):
        raise Refusal(f"{at} is of type {tool['type']!r}: this server runs no tools itself, give tools with an "
                      f"input_schema.", param=f"{at}.type")  # fmt: skip
    return convert({name: value for name, value in tool.items() if value is not None}, _Tool, at=at)


def _spec(tool: _Tool) -> ToolSpec:
    return ToolSpec(name=tool.name, description=tool.description or "", parameters=tool.input_schema)


def _choice(chosen: _Choice, tools: Sequence[_Tool]) -> ToolChoice:
    mode = {"any": "required", "tool": "required"}.get(chosen.type, chosen.type)
    return tool_choice(
        mode, [chosen.name] if chosen.type == "tool" else [], names=[tool.name for tool in tools],
        parallel=chosen.type != "tool" and not chosen.disable_parallel_tool_use,
        strict=tuple(tool.name for tool in tools if tool.strict),
    )  # fmt: skip


def _sampling(request: Request) -> dict[str, Any]:
    found = {name: value for name in SAME if (value := getattr(request, name)) is not None}
    if request.max_tokens is not None:
        found["max_tokens"] = at_least_one(request.max_tokens, "max_tokens")
    if request.stop_sequences:
        found["stop"] = tuple(request.stop_sequences)
    return found | shape_of(request.output_config.format if request.output_config else None)


class Writer:
    """Writes the events of a message, or the message: its content is what the events have built."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.content: list[dict[str, Any]] = []
        self.open = False  # the last block of the content
        self.arguments = ""  # of the open call
        self.reason, self.stop = "end_turn", ""

    def write(self, batch: Sequence[events.Event]) -> bytes:
        """Server-sent events."""
        return b"".join(event(value, name=value["type"]) for one in batch for value in self._values(one))

    def whole(self, collected: Collected) -> dict[str, Any]:
        """The message."""
        for one in collected.events:
            for _ in self._values(one):
                continue
        return self._message(usage(collected.usage), self.reason, self.stop or None)

    def _message(self, used: dict[str, Any], reason: str | None, stop: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{self.head.id}", "type": "message", "role": "assistant", "model": self.head.model,
            "content": self.content, "stop_reason": reason, "stop_sequence": stop, "stop_details": None,
            "container": None, "usage": used,
        }  # fmt: skip

    def _values(self, one: events.Event) -> Iterator[dict[str, Any]]:
        match one:
            case events.Start():
                so_far = usage(events.Usage(prompt_tokens=one.prompt_tokens))
                yield {"type": "message_start", "message": self._message(so_far, None, None)}
                yield {"type": "ping"}
            case events.Reasoning():
                yield from self._more("thinking", one.text)
            case events.Text():
                yield from self._more("text", one.text)
            case events.ToolStart():
                yield from self._begin({"type": "tool_use", "id": one.id, "name": one.name, "input": {},
                                        "caller": {"type": "direct"}})  # fmt: skip
            case events.ToolArgs():
                self.arguments += one.text
                yield self._delta({"type": "input_json_delta", "partial_json": one.text})
            case events.ToolEnd():
                yield from self._end()
            case events.Finish():
                self.reason = "stop_sequence" if one.stop else STOPS[one.reason]
                self.stop = one.stop
                if not self.content:
                    yield from self._begin({"type": "text", "text": "", "citations": None})
                yield from self._end()
            case events.Usage():
                delta = {"stop_reason": self.reason, "stop_sequence": self.stop or None, "stop_details": None,
                         "container": None}  # fmt: skip
                yield {"type": "message_delta", "delta": delta, "usage": usage(one)}
                yield {"type": "message_stop"}
            case events.Error():
                yield error(Refusal(one.message, kind=one.kind), self.head.id)

    def _more(self, kind: Literal["thinking", "text"], text: str) -> Iterator[dict[str, Any]]:
        """More thinking or text, in a block of its own where another kind is open."""
        if not text:
            return
        if not self.open or self.content[-1]["type"] != kind:
            more = {"signature": ""} if kind == "thinking" else {"citations": None}
            yield from self._begin({"type": kind, kind: "", **more})
        self.content[-1][kind] += text
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _begin(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._end()
        self.content.append(block)
        self.open, self.arguments = True, ""
        yield {"type": "content_block_start", "index": len(self.content) - 1, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.content) - 1, "delta": delta}

    def _end(self) -> Iterator[dict[str, Any]]:
        if not self.open:
            return
        self.open, block = False, self.content[-1]
        if block["type"] == "thinking":
            block["signature"] = SIGNATURE
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        elif block["type"] == "tool_use":
            block["input"] = _object(self.arguments)
        yield {"type": "content_block_stop", "index": len(self.content) - 1}


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as the object that this dialect wants; what is none is handed on as text."""
    try:
        found = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


def usage(used: events.Usage) -> dict[str, Any]:
    """Token counts: the prompt is what was read anew and what came from the cache."""
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens, "cache_read_input_tokens": used.cached_tokens,
        "cache_creation_input_tokens": 0, "output_tokens": used.completion_tokens,
        "output_tokens_details": {"thinking_tokens": used.reasoning_tokens}, "cache_creation": None,
        "server_tool_use": None, "service_tier": "standard", "inference_geo": None,
    }  # fmt: skip


def error(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The JSON value of a refusal."""
    body: dict[str, Any] = {"type": ERRORS.get(refusal.kind, refusal.kind), "message": str(refusal)}
    if refusal.code:
        body["details"] = {"error_code": refusal.code}
    return {"type": "error", "error": body, "request_id": request_id or None}

"""What each dialect's answers say, streamed or whole, in one shape: as a careful client would add them up."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Said:
    """One reply.   usage   prompt, cached, completion and reasoning tokens;   calls   (id, name, arguments)"""

    thinking: str = ""
    text: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    end: str = ""
    usage: tuple[int, int, int, int] = (0, 0, 0, 0)


def sent(stream: bytes) -> Iterator[dict[str, Any]]:
    """The JSON values of a stream."""
    for line in stream.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def said_in_stream(dialect: str, stream: bytes) -> Said:
    """What a stream says. Checks on the way that its pieces fit together."""
    return STREAMS[dialect](sent(stream))


def said_in_whole(dialect: str, body: dict[str, Any]) -> Said:
    """What an answer says."""
    return WHOLES[dialect](body)


def _chat_usage(used: dict[str, Any]) -> tuple[int, int, int, int]:
    return (used["prompt_tokens"], used["prompt_tokens_details"]["cached_tokens"], used["completion_tokens"],
            used["completion_tokens_details"]["reasoning_tokens"])  # fmt: skip


def _chat_stream(chunks: Iterator[dict[str, Any]]) -> Said:
    found = Said()
    for chunk in chunks:
        found.usage = _chat_usage(chunk["usage"]) if chunk.get("usage") else found.usage
        for choice in chunk["choices"]:
            delta = choice.get("delta", {})
            found.thinking += delta.get("reasoning") or ""
            found.text += delta.get("content") or choice.get("text") or ""
            found.end = choice["finish_reason"] or found.end
            for call in delta.get("tool_calls") or ():
                if "id" in call:
                    assert call["index"] == len(found.calls)
                    found.calls.append((call["id"], call["function"]["name"], ""))
                id, name, arguments = found.calls[call["index"]]
                found.calls[call["index"]] = (id, name, arguments + call["function"]["arguments"])
    return found


def _chat_whole(body: dict[str, Any]) -> Said:
    message = body["choices"][0]["message"]
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
    return Said(message.get("reasoning") or "", message["content"] or "", calls, body["choices"][0]["finish_reason"],
                _chat_usage(body["usage"]))  # fmt: skip


def _text_whole(body: dict[str, Any]) -> Said:
    choice = body["choices"][0]
    return Said(text=choice["text"], end=choice["finish_reason"], usage=_chat_usage(body["usage"]))


def _messages_usage(used: dict[str, Any]) -> tuple[int, int, int, int]:
    cached = used["cache_read_input_tokens"]
    return (used["input_tokens"] + cached, cached, used["output_tokens"],
            used["output_tokens_details"]["thinking_tokens"])  # fmt: skip


def _messages_stream(told: Iterator[dict[str, Any]]) -> Said:
    blocks, body, open_block = list[dict[str, Any]](), dict[str, Any](), False
    for one in told:
        match one["type"]:
            case "message_start":
                body = one["message"]
            case "content_block_start":
                assert one["index"] == len(blocks) and not open_block
                blocks.append({**one["content_block"], "partial": ""})
                open_block = True
            case "content_block_delta":
                assert one["index"] == len(blocks) - 1 and open_block
                for name, value in one["delta"].items():
                    if name != "type":
                        at = "partial" if name == "partial_json" else name
                        blocks[-1][at] += value
            case "content_block_stop":
                assert one["index"] == len(blocks) - 1
                open_block = False
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = json.loads(blocks[-1]["partial"])
            case "message_delta":
                body |= one["delta"] | {"usage": one["usage"]}
            case kind:
                assert kind in ("ping", "message_stop")
    return _messages_whole({**body, "content": blocks})


def _messages_whole(body: dict[str, Any]) -> Said:
    found = Said(end=body["stop_reason"], usage=_messages_usage(body["usage"]))
    for block in body["content"]:
        match block["type"]:
            case "thinking":
                assert block["signature"]
                found.thinking += block["thinking"]
            case "text":
                found.text += block["text"]
            case _:
                found.calls.append((block["id"], block["name"], json.dumps(block["input"])))
    return found


def _responses_stream(told: Iterator[dict[str, Any]]) -> Said:
    found, last = Said(), dict[str, Any]()
    items: list[dict[str, Any]] = []
    for one in told:
        kind = one["type"].removeprefix("response.")
        match kind:
            case "output_item.added":
                assert one["output_index"] == len(items)
                items.append(one["item"])
            case "output_item.done":
                items[one["output_index"]] = one["item"]
            case "output_text.delta":
                found.text += one["delta"]
            case "reasoning.delta" | "reasoning_summary_text.delta":
                found.thinking += one["delta"]
            case "function_call_arguments.done":
                found.calls.append((items[-1]["call_id"], one["name"], one["arguments"]))
            case _:
                last = one.get("response", last)
    assert last["output"] == items
    whole = _responses_whole(last)
    found.end, found.usage = whole.end, whole.usage
    return found


def _responses_whole(body: dict[str, Any]) -> Said:
    used = body["usage"]
    found = Said(end=body["status"], usage=(
        used["input_tokens"], used["input_tokens_details"]["cached_tokens"], used["output_tokens"],
        used["output_tokens_details"]["reasoning_tokens"]))  # fmt: skip
    for item in body["output"]:
        match item["type"]:
            case "reasoning":
                found.thinking += (item["summary"] or item["content"])[0]["text"]
            case "message":
                found.text += item["content"][0]["text"]
            case _:
                found.calls.append((item["call_id"], item["name"], item["arguments"]))
    return found


STREAMS: dict[str, Callable[[Iterator[dict[str, Any]]], Said]] = {
    "chat": _chat_stream, "completions": _chat_stream, "messages": _messages_stream, "responses": _responses_stream,
}  # fmt: skip
WHOLES: dict[str, Callable[[dict[str, Any]], Said]] = {
    "chat": _chat_whole, "completions": _text_whole, "messages": _messages_whole, "responses": _responses_whole,
}  # fmt: skip

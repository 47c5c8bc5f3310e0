"""Any OpenAI-compatible endpoint as a `Chat`. Source of the wire: OpenAI's API reference, chat completions."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from octavo.chat import openai_wire as wire
from octavo.chat.openai_wire import FINISH, Choice, Chunk, read_chunk, request_body
from octavo.core.deltas import Delta, Finished, FinishReason, TextDelta, ThinkingDelta, ToolCallDelta, Usage
from octavo.core.errors import HubError, RequestError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.weights.transfer import check_url

KEY = "OCTAVO_API_KEY"  # environment variable with the key to send; not another program's, to send its key nowhere new
END, LINE_END = b"\n", re.compile(rb"[\r\n]")
TIMEOUT = httpx.Timeout(30.0, read=600.0)  # seconds; a model may think for long before its first token


class _Model(Struct, frozen=True):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None


class _Models(Struct, frozen=True):
    data: list[_Model]


def open_remote(address: str) -> RemoteChat:
    """The endpoint at `address` (.../v1), whose model is named after a #, or is its only one. Raises HubError."""
    url, _, name = address.partition("#")
    headers = headers_for(url)
    try:
        client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=TIMEOUT, headers=headers)
        answer = client.get("models")
        answer.raise_for_status()
        models = msgspec.json.decode(answer.content, type=_Models).data
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, msgspec.DecodeError, RecursionError) as cause:
        raise HubError(f"{url} does not answer as an OpenAI-compatible endpoint ({cause}): give the address that ends "
                       f"in /v1, and a key in {KEY} where it needs one.") from cause  # fmt: skip
    chosen = [model for model in models if model.id == name or not name]
    if len(chosen) != 1:
        names = ", ".join(model.id for model in models[:10]) or "none"
        raise HubError(f"{url} serves {names}: name one of them after a #, as in {url}#NAME.")
    longest = chosen[0].max_model_len or chosen[0].context_length or 0
    return RemoteChat(client, name=chosen[0].id, context_tokens=longest)


class RemoteChat:
    """Implements `Chat` over HTTP.   context_tokens   as the endpoint says; 0: it does not say."""

    def __init__(self, client: httpx.Client, *, name: str, context_tokens: int) -> None:
        self.client, self.name, self.context_tokens = client, name, context_tokens

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sampling: Sampling | None = None,
        thinking: Thinking = Thinking(),
    ) -> RemoteReply:
        """Begin a reply. sampling None: what the endpoint does by default. Raises RequestError, HubError."""
        options = {} if sampling is None else changed(sampling)
        body = request_body(self.name, messages, tools=tools, sampling=options, thinking=thinking)
        count = 1 if sampling is None else sampling.n
        request = self.client.build_request("POST", "chat/completions", json=body)
        try:
            response = self.client.send(request, stream=True)
            if response.is_error:
                response.read()
        except httpx.HTTPError as cause:
            raise HubError(f"{self.client.base_url} cannot be reached ({cause}): try again later.") from cause
        if response.is_error:
            why = wire.reason(response.content)
            raise RequestError(f"{self.name}: the endpoint refused ({response.status_code}): {why}")
        return RemoteReply(response, count=count)


class RemoteReply:
    """A running reply of a `RemoteChat`."""

    def __init__(self, response: httpx.Response, *, count: int) -> None:
        self.response, self.cancelled = response, False
        self.parts = [_Collected(index=i) for i in range(count)]
        self.started_s = time.perf_counter()

    def cancel(self) -> None:
        """Stop at the next token."""
        self.cancelled = True

    def end_thinking(self) -> None:
        """Not in this protocol: does nothing."""

    def __iter__(self) -> Iterator[Delta]:
        try:
            for data in self._data():
                if self.cancelled or data == "[DONE]":
                    break
                yield from self._deltas(read_chunk(data))
        except httpx.HTTPError as cause:
            raise HubError(f"the connection broke in the middle of the reply ({cause}): ask again.") from cause
        finally:
            self.response.close()
        for part in self.parts:
            yield from part.end(cancelled=self.cancelled, took_s=time.perf_counter() - self.started_s)

    def _data(self) -> Iterator[str]:
        lines = DataLines()
        for piece in chain(self.response.iter_bytes(), [END]):
            yield from lines.push(piece)

    def _deltas(self, chunk: Chunk) -> Iterator[Delta]:
        if chunk.error is not None:
            raise RequestError(f"the endpoint stopped with an error: {str(chunk.error)[:300]}")
        for choice in chunk.choices:
            if choice.index < len(self.parts):
                yield from self.parts[choice.index].add(choice, after_s=time.perf_counter() - self.started_s)
        if chunk.usage is not None:
            self.parts[0].usage = chunk.usage


class DataLines:
    """The data of server-sent events, however the stream was cut into pieces.

    Lines end with \\n, \\r or both, and with nothing else: JSON may hold all other line ends of Unicode as they are.
    Source: HTML Living Standard, 9.2.6.
    """

    def __init__(self) -> None:
        self.begun = list[bytes]()

    def push(self, piece: bytes) -> Iterator[str]:
        """What the lines hold that end within this piece. The last line of a stream ends with one of END."""
        first, *others = LINE_END.split(piece)
        self.begun.append(first)
        if others:
            whole, self.begun = [b"".join(self.begun), *others[:-1]], others[-1:]
            for line in whole:
                if line.startswith(b"data:") and (data := line.removeprefix(b"data:").strip()):
                    yield data.decode("utf-8", "replace")


class _Collected:
    """What has come of one reply."""

    def __init__(self, *, index: int) -> None:
        self.index, self.text, self.usage, self.first_s = index, "", wire.Usage(), 0.0
        self.thinking: str | None = None
        self.reason: FinishReason | None = None
        self.calls: dict[int, ToolCall] = {}

    def add(self, choice: Choice, *, after_s: float) -> Iterator[Delta]:
        self.first_s = self.first_s or after_s
        thought = choice.delta.reasoning_content or choice.delta.reasoning
        if thought:
            self.thinking = (self.thinking or "") + thought
            yield ThinkingDelta(text=thought, index=self.index)
        if choice.delta.content:
            self.text += choice.delta.content
            yield TextDelta(text=choice.delta.content, index=self.index)
        for call in choice.delta.tool_calls or ():
            known = self.calls.get(call.index, ToolCall(name="", arguments=""))
            self.calls[call.index] = ToolCall(
                name=known.name + (call.function.name or ""), id=known.id or call.id or "",
                arguments=known.arguments + (call.function.arguments or ""),
            )  # fmt: skip
        if choice.finish_reason is not None:
            self.reason = FINISH.get(choice.finish_reason, "stop")

    def end(self, *, cancelled: bool, took_s: float) -> Iterator[Delta]:
        if self.reason is None and not cancelled:
            raise HubError("the reply ended in the middle, without a reason: ask again.")
        calls = tuple(self.calls[i] for i in sorted(self.calls)) if self.reason is not None else ()
        for call in calls:
            yield ToolCallDelta(call=call, index=self.index)
        usage = Usage(
            prompt_tokens=self.usage.prompt_tokens, completion_tokens=self.usage.completion_tokens,
            thinking_tokens=self.usage.reasoning_tokens, cached_tokens=self.usage.cached_tokens,
            prefill_s=self.first_s, decode_s=took_s - self.first_s,
        )  # fmt: skip
        message = Message(role="assistant", content=self.text, thinking=self.thinking, tool_calls=calls)
        yield Finished(message=message, reason=self.reason or "cancelled", usage=usage, index=self.index)


def changed(sampling: Sampling) -> dict[str, Any]:
    """Options that are not what they are by default, and temperature, top_p and n, whose defaults elsewhere differ."""
    plain, always = Sampling(), ("temperature", "top_p", "n")
    values = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    return {name: value for name, value in values.items() if name in always or value != getattr(plain, name)}


def headers_for(url: str, *, name: str = "") -> dict[str, str]:
    """The key for an endpoint, as headers, where the environment has one: OCTAVO_API_KEY_NAME, else OCTAVO_API_KEY.

    Raises HubError where it would travel in the clear.
    """
    own = f"{KEY}_{re.sub('[^A-Z0-9]', '_', name.upper())}" if name else KEY
    key = os.environ.get(own) or os.environ.get(KEY)
    if key:
        check_url(url)
    return {"Authorization": f"Bearer {key}"} if key else {}

"""Any OpenAI-compatible endpoint as a `Chat`. Source of the wire: OpenAI's API reference, chat completions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from octavo.core.deltas import Delta, Finished, FinishReason, TextDelta, ThinkingDelta, ToolCallDelta, Usage
from octavo.core.errors import HubError, RequestError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.weights.transfer import check_url

KEY = "OCTAVO_API_KEY"  # environment variable with the key to send; not another program's, to send its key nowhere new
TIMEOUT = httpx.Timeout(30.0, read=600.0)  # seconds; a model may think for long before its first token
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: _Function = _Function()


class _Part(Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # what newer vLLM calls it
    tool_calls: list[_Call] | None = None


class _Choice(Struct, frozen=True):
    index: int = 0
    delta: _Part = _Part()
    finish_reason: str | None = None


class _Details(Struct, frozen=True):
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _Details | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


class _Model(Struct, frozen=True):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None


class _Models(Struct, frozen=True):
    data: list[_Model]


def open_remote(address: str) -> RemoteChat:
    """The endpoint at `address` (.../v1), whose model is named after a #, or is its only one. Raises HubError."""
    url, _, name = address.partition("#")
    headers = _headers(url)
    try:
        client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=TIMEOUT, headers=headers)
        answer = client.get("models")
        answer.raise_for_status()
        models = msgspec.json.decode(answer.content, type=_Models).data
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError) as cause:
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
        body = request_body(self.name, messages, tools=tools, sampling=sampling, thinking=thinking)
        count = 1 if sampling is None else sampling.n
        request = self.client.build_request("POST", "chat/completions", json=body)
        try:
            response = self.client.send(request, stream=True)
            if response.is_error:
                response.read()
        except httpx.HTTPError as cause:
            raise HubError(f"{self.client.base_url} cannot be reached ({cause}): try again later.") from cause
        if response.is_error:
            raise RequestError(f"{self.name}: the endpoint refused ({response.status_code}): {_reason(response)}")
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
            for line in self.response.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if self.cancelled or data == "[DONE]":
                    break
                if data:
                    yield from self._deltas(_chunk(data))
        except httpx.HTTPError as cause:
            raise HubError(f"the connection broke in the middle of the reply ({cause}): ask again.") from cause
        finally:
            self.response.close()
        for part in self.parts:
            yield from part.end(cancelled=self.cancelled, took_s=time.perf_counter() - self.started_s)

    def _deltas(self, chunk: _Chunk) -> Iterator[Delta]:
        if chunk.error is not None:
            raise RequestError(f"the endpoint stopped with an error: {str(chunk.error)[:300]}")
        for choice in chunk.choices:
            if choice.index < len(self.parts):
                yield from self.parts[choice.index].add(choice, after_s=time.perf_counter() - self.started_s)
        if chunk.usage is not None:
            self.parts[0].usage = chunk.usage


class _Collected:
    """What has come of one reply."""

    def __init__(self, *, index: int) -> None:
        self.index, self.text, self.usage, self.first_s = index, "", _Usage(), 0.0
        self.thinking: str | None = None
        self.reason: FinishReason | None = None
        self.calls: dict[int, ToolCall] = {}

    def add(self, choice: _Choice, *, after_s: float) -> Iterator[Delta]:
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
        thought, cached = self.usage.completion_tokens_details, self.usage.prompt_tokens_details
        usage = Usage(
            prompt_tokens=self.usage.prompt_tokens, completion_tokens=self.usage.completion_tokens,
            thinking_tokens=(thought.reasoning_tokens if thought else 0) or 0,
            cached_tokens=(cached.cached_tokens if cached else 0) or 0,
            prefill_s=self.first_s, decode_s=took_s - self.first_s,
        )  # fmt: skip
        message = Message(role="assistant", content=self.text, thinking=self.thinking, tool_calls=calls)
        yield Finished(message=message, reason=self.reason or "cancelled", usage=usage, index=self.index)


def request_body(
    model: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[ToolSpec],
    sampling: Sampling | None,
    thinking: Thinking,
) -> dict[str, Any]:
    """The JSON of a request. Raises RequestError for what the wire cannot ask for."""
    if thinking.budget_tokens is not None:
        raise RequestError(
            "a thinking budget cannot be asked of a remote endpoint: leave it out, or run the model here."
        )
    body: dict[str, Any] = {"model": model, "messages": [_message(m) for m in messages], "stream": True,
                            "stream_options": {"include_usage": True}}  # fmt: skip
    if tools:
        body["tools"] = [tool.as_openai() for tool in tools]
    if thinking.mode != "auto":
        body["chat_template_kwargs"] = {"enable_thinking": thinking.mode == "on"}
    return body if sampling is None else body | _sampling(sampling)


def _sampling(s: Sampling) -> dict[str, Any]:
    plain = Sampling()
    names = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "seed")
    body: dict[str, Any] = {"temperature": s.temperature, "top_p": s.top_p, "n": s.n}
    body |= {name: value for name in names if (value := getattr(s, name)) != getattr(plain, name)}
    if s.stop:
        body["stop"] = list(s.stop)
    if s.logit_bias:
        body["logit_bias"] = {str(token): value for token, value in s.logit_bias.items()}
    if s.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": s.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if s.logprobs is not None or s.regex is not None or s.choice:
        raise RequestError("logprobs, regex and choice cannot be asked of a remote endpoint: leave them out.")
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking is not None:
        body["reasoning_content"] = message.thinking
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        body["tool_call_id"] = message.tool_call_id
    return body


def _chunk(data: str) -> _Chunk:
    try:
        return msgspec.json.decode(data, type=_Chunk)
    except msgspec.DecodeError as cause:
        raise HubError(f"the endpoint sent something that is no chat completion ({cause}): {data[:100]!r}") from cause


def _reason(response: httpx.Response) -> str:
    try:
        value = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return response.text[:300]
    error = value.get("error", value) if isinstance(value, dict) else value
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _headers(url: str) -> dict[str, str]:
    """The key, where there is one. Raises HubError where it would travel in the clear."""
    key = os.environ.get(KEY)
    if key:
        check_url(url)
    return {"Authorization": f"Bearer {key}"} if key else {}

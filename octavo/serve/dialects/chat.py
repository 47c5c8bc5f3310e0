"""Chat Completions. Source: OpenAI's API reference; reasoning fields as vLLM and SGLang name them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from octavo.core.deltas import TokenLogprob
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.serve import events
from octavo.serve.errors import Refusal
from octavo.serve.job import Job, ToolChoice
from octavo.serve.stream import Collected, Reply
from octavo.serve.thinking import Switches, thinking_of
from octavo.serve.wire import DONE, Asked, Head, checked, convert, event, on_one_line, read

PATH = "/v1/chat/completions"
# Fields that mean the same here as in `Sampling`.
SAME = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
        "seed", "n")  # fmt: skip


class _Function(Struct):
    name: str
    arguments: str = "{}"


class _Call(Struct):
    function: _Function
    id: str = ""


class _Said(Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _ToolFunction(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(Struct):
    type: Literal["function"]
    function: _ToolFunction


class StreamOptions(Struct):
    """Whether a stream ends with what was used."""

    include_usage: bool | None = None


class Drawn(Protocol):
    """A request with the sampling options that all of OpenAI's dialects share: those in SAME, and these."""

    @property
    def stop(self) -> str | list[str] | None:
        """Texts that end a reply."""
        ...

    @property
    def logit_bias(self) -> dict[str, float] | None:
        """Token id, as text -> added logit."""
        ...


class Request(Switches, frozen=True, kw_only=True):
    """The body of a request; what else stands there is reported as ignored."""

    model: str
    messages: list[_Said]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None


def decode(body: bytes) -> Asked:
    """A request. Raises Refusal naming the field."""
    request, ignored = read(body, Request)
    if not request.messages:
        raise Refusal("messages is empty: give at least one.", param="messages")
    tools = tuple(_tool(tool) for tool in request.tools or ())
    strict = tuple(tool.function.name for tool in request.tools or () if tool.function.strict)
    job = Job(
        model=request.model, messages=messages(request.messages), tools=tools,
        choice=choice_of(request.tool_choice, names=[tool.name for tool in tools],
                         parallel=request.parallel_tool_calls is not False, strict=strict),
        sampling=_sampling(request),
        thinking=thinking_of(request), resume=bool(request.continue_final_message), space=request.cache_salt or "",
    )  # fmt: skip
    return Asked(checked(job), request.stream, partial(Writer, request), ignored)


def messages(said: Sequence[_Said]) -> tuple[Message, ...]:
    """Messages as Octavo has them. Raises Refusal for parts that are not text."""
    return tuple(_message(one, f"messages[{i}]") for i, one in enumerate(said))


def _message(said: _Said, at: str) -> Message:
    calls = tuple(ToolCall(name=c.function.name, arguments=c.function.arguments, id=c.id)
                  for c in said.tool_calls or ())  # fmt: skip
    thinking = said.reasoning if said.reasoning is not None else said.reasoning_content
    return Message(
        role="system" if said.role == "developer" else said.role, content=flat_text(said.content, at=f"{at}.content"),
        thinking=thinking if said.role == "assistant" else None, tool_calls=calls, tool_call_id=said.tool_call_id or "",
    )  # fmt: skip


def flat_text(content: str | list[dict[str, Any]] | None, *, at: str) -> str:
    """Content as one text: parts joined. Raises Refusal for a part that is no text, naming it."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for i, part in enumerate(content):
        kind, text = part.get("type"), part.get("text", part.get("refusal"))
        if kind not in ("text", "input_text", "output_text", "refusal"):
            raise Refusal(f"{at}[{i}] is of type {kind!r}: this model reads text only.", param=f"{at}[{i}].type")
        texts.append(convert(text, str, at=f"{at}[{i}].text"))
    return "".join(texts)


def _tool(tool: _Tool) -> ToolSpec:
    f = tool.function
    return ToolSpec(name=f.name, description=f.description or "", parameters=f.parameters or {})


def choice_of(chosen: Any, *, names: Sequence[str], parallel: bool, strict: tuple[str, ...]) -> ToolChoice:
    """OpenAI's `tool_choice`: a word, one function, or some that are allowed; names nested (Chat) or flat (Responses).

    Raises Refusal for tools that were not given.
    """
    if isinstance(chosen, str) or chosen is None:
        return tool_choice(chosen or "auto", (), names=names, parallel=parallel, strict=strict)
    if chosen.get("type") == "allowed_tools":
        allowed = convert(chosen.get("allowed_tools", chosen), _Allowed, at="tool_choice")
        only = [_named(tool) for tool in allowed.tools]
        return tool_choice(allowed.mode, only, names=names, parallel=parallel, strict=strict)
    return tool_choice("required", [_named(chosen)], names=names, parallel=False, strict=strict)


class _Allowed(Struct):
    tools: list[dict[str, Any]]
    mode: str = "auto"


def _named(tool: dict[str, Any]) -> Any:
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, dict) else None


def tool_choice(mode: str, only: Sequence[Any], *, names: Sequence[str], parallel: bool,
                strict: tuple[str, ...]) -> ToolChoice:  # fmt: skip
    """Whether tools must be called, and which. Raises Refusal for tools that were not given."""
    if mode not in ("auto", "none", "required"):
        raise Refusal(f"tool_choice {mode!r}: choose auto, none, required, or name a tool.", param="tool_choice")
    for name in only:
        if name not in names:
            raise Refusal(f"tool_choice names {name!r}, which tools does not hold.", param="tool_choice")
    if mode == "required" and not names:
        raise Refusal("tool_choice asks for a tool call, but there are no tools.", param="tool_choice")
    return ToolChoice(mode=mode, only=tuple(only), parallel=parallel, strict=strict)  # type: ignore[arg-type]


def _sampling(request: Request) -> dict[str, Any]:
    found = drawn(request)
    most = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    if most is not None:
        found["max_tokens"] = at_least_one(most, "max_completion_tokens")
    if request.logprobs:
        found["logprobs"] = request.top_logprobs or 0
    elif request.top_logprobs:
        raise Refusal("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return found | shape_of(request.response_format, request.structured_outputs)


def drawn(request: Drawn) -> dict[str, Any]:
    """The options of `Sampling` that a request sets, of those that OpenAI's dialects share. Raises Refusal."""
    found = {name: value for name in SAME if (value := getattr(request, name)) is not None}
    if request.stop is not None:
        found["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.logit_bias:
        found["logit_bias"] = biases(request.logit_bias)
    return found


def biases(given: dict[str, float]) -> dict[int, float]:
    """`logit_bias`, whose keys are token ids as text. Raises Refusal for one that is none."""
    for key in given:
        if not (key.isascii() and key.isdecimal() and len(key) < 19):  # 64 bits
            raise Refusal(f"logit_bias has {key[:40]!r}: its keys are token ids.", param="logit_bias")
    return {int(key): value for key, value in given.items()}


def at_least_one(count: int, field: str) -> int:
    """A number of tokens to write. Raises Refusal for less than one."""
    if count < 1:
        raise Refusal(f"{field} is {count}: give 1 or more.", param=field)
    return count


def shape_of(form: dict[str, Any] | None, outputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Sampling options for `response_format` (also Responses' `text.format`) and vLLM's `structured_outputs`."""
    if outputs is not None:
        known = {"json": "schema", "regex": "regex", "choice": "choice"}
        given = [name for name in known if outputs.get(name) is not None]
        if len(given) != 1:
            raise Refusal("structured_outputs needs one of json, regex, choice.", param="structured_outputs")
        value = outputs[given[0]]
        return {known[given[0]]: tuple(value) if isinstance(value, list) else value}
    kind = "text" if form is None else form.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"schema": {"type": "object"}}
    if kind == "json_schema" and form is not None:
        holder = form.get("json_schema", form)
        schema = holder.get("schema") if isinstance(holder, dict) else None
        if isinstance(schema, dict | bool):
            return {"schema": schema}
        raise Refusal("response_format.json_schema.schema must be a JSON schema.", param="response_format")
    raise Refusal(f"response_format.type {kind!r}: choose text, json_object or json_schema.", param="response_format")


class Writer:
    """Writes chunks, or one completion."""

    def __init__(self, request: Request, head: Head) -> None:
        self.request, self.head = request, head
        self.id = f"chatcmpl-{head.id}"
        options = request.stream_options
        self.usage_wanted = bool(options and options.include_usage)
        self.started = False
        base = {"id": self.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        self.base = msgspec.json.encode(base)[:-1]

    def write(self, batch: Sequence[events.Event]) -> bytes:
        """Chunks."""
        return b"".join(self._chunks(one) for one in batch)

    def _chunks(self, one: events.Event) -> bytes:
        match one:
            case events.Start():
                many = range(int(self.request.n or 1))
                return b"".join(self._chunk(i, {"role": "assistant", "content": ""}) for i in many)
            case events.Reasoning():
                if one.logprobs:
                    return self._chunk(one.index, {"reasoning": one.text, "reasoning_content": one.text}, one.logprobs)
                said = msgspec.json.encode(one.text)
                return (
                    self._piece(one.index, b'"reasoning":' + said + b',"reasoning_content":' + said)
                    if one.text
                    else b""
                )
            case events.Text():
                if one.logprobs:
                    return self._chunk(one.index, {"content": one.text}, one.logprobs)
                return self._piece(one.index, b'"content":' + msgspec.json.encode(one.text))
            case events.ToolStart():
                function = {"name": one.name, "arguments": ""}
                call = {"index": one.call, "id": one.id, "type": "function", "function": function}
                return self._chunk(one.index, {"tool_calls": [call]})
            case events.ToolArgs():
                call = {"index": one.call, "function": {"arguments": one.text}}
                return self._chunk(one.index, {"tool_calls": [call]})
            case events.ToolEnd():
                return b""
            case events.Finish():
                more = {"token_ids": list(one.tokens)} if self.request.return_token_ids else {}
                return self._chunk(one.index, {}, reason=reason(one.reason), more=more)
            case events.Usage():
                return self._usage(one) + DONE
            case events.Error():
                return event({"error": error_body(one.message, one.kind)})

    def _piece(self, index: int, delta: bytes) -> bytes:
        """What almost every chunk is, joined by hand: this is most of what a token costs here."""
        head = b'data: %b,"choices":[{"index":%d,"delta":{' % (self.base, index)
        return head + on_one_line(delta) + b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Sequence[TokenLogprob] = (), *,
               reason: str | None = None, more: dict[str, Any] | None = None) -> bytes:  # fmt: skip
        choice = {"index": index, "delta": delta, "logprobs": _logprobs(logprobs) if logprobs else None,
                  "finish_reason": reason, **(more or {})}  # fmt: skip
        return b"data: " + self.base + b',"choices":[' + on_one_line(msgspec.json.encode(choice)) + b"]}\n\n"

    def _usage(self, used: events.Usage) -> bytes:
        if not self.usage_wanted:
            return b""
        body = msgspec.json.encode({"choices": [], "usage": usage(used), "timings": timings(used)})
        return b"data: " + self.base + b"," + body[1:] + b"\n\n"

    def whole(self, collected: Collected) -> dict[str, Any]:
        """A completion."""
        return {
            "id": self.id, "object": "chat.completion", "created": self.head.created, "model": self.head.model,
            "choices": [self._choice(i, one, ended=collected.reasons[i]) for i, one in enumerate(collected.replies)],
            "usage": usage(collected.usage), "timings": timings(collected.usage), "service_tier": "default",
        }  # fmt: skip

    def _choice(self, index: int, reply: Reply, *, ended: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text or (None if reply.calls else ""),
                                   "refusal": None, "annotations": []}  # fmt: skip
        if reply.thinking:
            message |= {"reasoning": reply.thinking, "reasoning_content": reply.thinking}
        if reply.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in reply.calls
            ]
        more = {"token_ids": list(reply.tokens)} if self.request.return_token_ids else {}
        return {"index": index, "message": message, "finish_reason": reason(ended),
                "logprobs": _logprobs(reply.logprobs) if self.request.logprobs else None, **more}  # fmt: skip


def reason(finish: str) -> str:
    """OpenAI's word for why a reply ended: one that was stopped from outside is a "stop"."""
    return "stop" if finish == "cancelled" else finish


def usage(used: events.Usage) -> dict[str, Any]:
    """Token counts, with what was reasoning and what came from the cache."""
    return {
        "prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": used.reasoning_tokens, "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def timings(used: events.Usage) -> dict[str, Any]:
    """Speed, as llama.cpp's server names it: milliseconds, and tokens per second."""
    fresh = used.prompt_tokens - used.cached_tokens
    return {
        "cache_n": used.cached_tokens, "prompt_n": fresh, "prompt_ms": used.prefill_s * 1e3,
        "prompt_per_second": fresh / used.prefill_s if used.prefill_s else 0.0,
        "predicted_n": used.completion_tokens, "predicted_ms": used.decode_s * 1e3,
        "predicted_per_second": used.completion_tokens / used.decode_s if used.decode_s else 0.0,
    }  # fmt: skip


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities in nats. A token that was forced has none: 0, as it was certain."""
    return {"content": [token_logprob(token) for token in tokens], "refusal": None}


def token_logprob(token: TokenLogprob) -> dict[str, Any]:
    """A chosen token with the likeliest beside it."""
    top = [logprob(data, value) for _, data, value in token.top]
    return {**logprob(token.data, token.logprob), "top_logprobs": top}


def logprob(data: bytes, value: float | None) -> dict[str, Any]:
    """One token: its text, log-probability and bytes."""
    return {"token": data.decode("utf-8", "replace"), "logprob": value or 0.0, "bytes": list(data)}


def error_body(message: str, kind: str, *, param: str = "", code: str = "") -> dict[str, Any]:
    """What stands under "error"."""
    return {"message": message, "type": kind, "param": param or None, "code": code or None}

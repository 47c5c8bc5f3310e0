"""The wire of OpenAI-compatible endpoints, from the client's side: pure. Source: OpenAI's API reference."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.deltas import FinishReason
from octavo.core.errors import HubError, RequestError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking

FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
# Sampling options that have the same name on the wire. Those that only some servers know stand there all the same.
SAME = ("temperature", "top_p", "n", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
        "max_tokens", "seed")  # fmt: skip


class Function(Struct, frozen=True):
    """Of a tool call: a piece of each."""

    name: str | None = None
    arguments: str | None = None


class Call(Struct, frozen=True):
    """A piece of a tool call."""

    index: int = 0
    id: str | None = None
    function: Function = Function()


class Part(Struct, frozen=True):
    """What a chunk adds to one reply."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # what newer vLLM calls it
    tool_calls: list[Call] | None = None


class Choice(Struct, frozen=True):
    """One reply's part of a chunk."""

    index: int = 0
    delta: Part = Part()
    text: str | None = None  # of legacy completions
    finish_reason: str | None = None


class Details(Struct, frozen=True):
    """Of what kinds the tokens are; only what there is of each side."""

    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class Usage(Struct, frozen=True):
    """Tokens of the whole request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: Details | None = None
    prompt_tokens_details: Details | None = None

    @property
    def reasoning_tokens(self) -> int:
        """0 where the endpoint does not say."""
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0

    @property
    def cached_tokens(self) -> int:
        """0 where the endpoint does not say."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class Chunk(Struct, frozen=True):
    """One server-sent event."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: Any = None


def request_body(
    model: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[ToolSpec],
    sampling: Mapping[str, Any],
    thinking: Thinking,
    octavo: bool = False,
) -> dict[str, Any]:
    """The JSON of a streamed request. Raises RequestError for what the wire cannot ask for.

    sampling   the options that are set; all others are the endpoint's business
    octavo     the endpoint is Octavo's own: it takes budgets, regular expressions, choices and log-probabilities
    """
    if thinking.budget_tokens is not None and not octavo:
        raise RequestError(
            "a thinking budget cannot be asked of a remote endpoint: leave it out, or run the model here."
        )
    body: dict[str, Any] = {"model": model, "messages": [_message(m) for m in messages], "stream": True,
                            "stream_options": {"include_usage": True}}  # fmt: skip
    if tools:
        body["tools"] = [tool.as_openai() for tool in tools]
    if thinking.mode != "auto":
        body["chat_template_kwargs"] = {"enable_thinking": thinking.mode == "on"}
    if thinking.budget_tokens is not None:
        body["thinking_budget"] = thinking.budget_tokens
    return body | sampling_fields(sampling, octavo=octavo)


def sampling_fields(sampling: Mapping[str, Any], *, octavo: bool) -> dict[str, Any]:
    """Sampling options as the wire has them; octavo: see `request_body`. Raises RequestError."""
    body: dict[str, Any] = {name: sampling[name] for name in SAME if sampling.get(name) is not None}
    if sampling.get("stop"):
        body["stop"] = list(sampling["stop"])
    if sampling.get("logit_bias"):
        body["logit_bias"] = {str(token): value for token, value in sampling["logit_bias"].items()}
    if sampling.get("schema") is not None:
        schema = {"name": "answer", "strict": True, "schema": sampling["schema"]}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    exact = {name: sampling[name] for name in ("regex", "choice") if sampling.get(name)}
    if (exact or sampling.get("logprobs") is not None) and not octavo:
        raise RequestError("logprobs, regex and choice cannot be asked of a remote endpoint: leave them out.")
    if exact:
        body["structured_outputs"] = exact
    if sampling.get("logprobs") is not None:
        body |= {"logprobs": True, "top_logprobs": sampling["logprobs"]}
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


def read_chunk(data: str) -> Chunk:
    """One event's data. Raises HubError for what is no chunk."""
    try:
        return msgspec.json.decode(data, type=Chunk)
    except (msgspec.DecodeError, RecursionError) as cause:
        raise HubError(f"the endpoint sent something that is no chat completion ({cause}): {data[:100]!r}") from cause


def reason(body: bytes) -> str:
    """What a refusal's body says, 300 characters at most: the error's message where it is in OpenAI's shape."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body[:300].decode("utf-8", "replace")
    error = value.get("error", value) if isinstance(value, dict) else value
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]

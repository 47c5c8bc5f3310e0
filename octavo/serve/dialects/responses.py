"""Responses. Source: the Open Responses specification; fields beyond it as OpenAI's API reference has them.

The thinking is streamed as the specification says (`response.reasoning.delta`); where a summary is asked for, it is all
of the thinking, in the events for summaries that OpenAI's clients read.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from msgspec import Struct

from octavo.core.deltas import TokenLogprob
from octavo.core.messages import Message, ToolSpec
from octavo.serve import events
from octavo.serve.bounds import sayable
from octavo.serve.dialects import items
from octavo.serve.dialects.chat import at_least_one, biases, choice_of, shape_of, token_logprob
from octavo.serve.dialects.items import Item
from octavo.serve.errors import Refusal
from octavo.serve.job import Job
from octavo.serve.stream import Collected
from octavo.serve.thinking import Switches, thinking_of
from octavo.serve.wire import DONE, Asked, Head, checked, event, read

PATH = "/v1/responses"
# Fields that mean the same here as in `Sampling`; from top_k on they are ours.
SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty", "seed")
ENDS = {"stop": "completed", "tool_calls": "completed", "length": "incomplete", "cancelled": "cancelled"}
MOST_METADATA = 16


class Kept(Struct, frozen=True, kw_only=True):
    """A response that can be asked for again.

    given   the items that it answers;   talk   all messages of the conversation, the reply's too
    """

    response: dict[str, Any]
    given: list[Item]
    talk: tuple[Message, ...]


class Shelf(Protocol):
    """The kept responses of one tenant."""

    def find(self, id: str) -> Kept:
        """A response by its id. Raises Refusal."""
        ...

    def keep(self, kept: Kept) -> None:
        """One more."""
        ...


class _Tool(Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _TextField(Struct, frozen=True):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Request(Switches, frozen=True, kw_only=True):
    """The body of a request; what else stands there is reported as ignored."""

    model: str
    input: str | list[Item] = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    include: tuple[str, ...] = ()
    tools: tuple[_Tool, ...] = ()
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    text: _TextField = _TextField()
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: Any = None
    prompt: Any = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None


def decode(body: bytes, shelf: Shelf) -> Asked:
    """A request. Raises Refusal naming the field."""
    request, ignored = read(body, Request)
    sayable(request)  # what is ignored in it is kept all the same
    _refuse_what_is_not_there(request)
    given = [{"type": "message", "role": "user", "content": request.input}] if isinstance(request.input, str) else (
        request.input)  # fmt: skip
    before = shelf.find(request.previous_response_id).talk if request.previous_response_id else ()
    talk = (*before, *items.messages(given, lambda id: _referred(id, shelf)))
    if not talk or request.input == "":
        raise Refusal("input is empty: give text or items.", param="input")
    first = (Message(role="system", content=request.instructions),) if request.instructions else ()
    job = Job(
        model=request.model, messages=(*first, *talk), tools=tuple(_spec(tool) for tool in request.tools),
        choice=choice_of(request.tool_choice, names=[tool.name for tool in request.tools],
                         parallel=request.parallel_tool_calls,
                         strict=tuple(tool.name for tool in request.tools if tool.strict)),
        sampling=_sampling(request), thinking=thinking_of(request),
    )  # fmt: skip
    kept = Kept(response={}, given=given, talk=talk)
    return Asked(checked(job), request.stream, partial(Writer, request, Memory(shelf, kept)), ignored)


def _refuse_what_is_not_there(request: Request) -> None:
    if request.background and (request.stream or not request.store):
        raise Refusal("background: such a response is asked for again, so it must be stored, and is not streamed.",
                      param="background")  # fmt: skip
    for field in ("conversation", "prompt"):
        if getattr(request, field):
            raise Refusal(f"{field} is not supported here: send the request without it.", param=field)
    if (entries := len(request.metadata or {})) > MOST_METADATA:
        raise Refusal(f"metadata has {entries} entries: at most {MOST_METADATA} are kept.", param="metadata")
    for i, tool in enumerate(request.tools):
        if tool.type != "function" or not tool.name:
            raise Refusal(f"tools[{i}] is of type {tool.type!r}: this server runs no tools itself, give functions with "
                          f"a name.", param=f"tools[{i}].type")  # fmt: skip


def _referred(id: str, shelf: Shelf) -> Item:
    """The item of an id that `Writer` has given: the response's id stands in it."""
    _, _, rest = id.partition("_")
    response = shelf.find(f"resp_{rest.partition('_')[0]}").response
    for item in response["output"]:
        if item["id"] == id:
            return item
    raise Refusal(f"there is no item {id!r} here: give the item itself.", kind="not_found_error", param="input")


def _spec(tool: _Tool) -> ToolSpec:
    return ToolSpec(name=tool.name, description=tool.description or "", parameters=tool.parameters or {})


def _sampling(request: Request) -> dict[str, Any]:
    found = {name: value for name in SAME if (value := getattr(request, name)) is not None}
    if request.max_output_tokens is not None:
        found["max_tokens"] = at_least_one(request.max_output_tokens, "max_output_tokens")
    if request.logit_bias:
        found["logit_bias"] = biases(request.logit_bias)
    if request.top_logprobs or "message.output_text.logprobs" in request.include:
        found["logprobs"] = request.top_logprobs or 0
    return found | shape_of(request.text.format)


class Memory(Struct, frozen=True):
    """Where a finished response goes.   draft   it, less the response and the reply"""

    shelf: Shelf
    draft: Kept

    def keep(self, response: dict[str, Any]) -> None:
        """Put it on the shelf."""
        reply = items.messages(response["output"], lambda id: {})
        talk = (*self.draft.talk, *reply)
        self.shelf.keep(Kept(response=response, given=self.draft.given, talk=talk))


class Writer:
    """Writes the events of a response, or the response: its output is what the events have built."""

    def __init__(self, request: Request, memory: Memory, head: Head) -> None:
        self.request, self.head, self.memory = request, head, memory
        self.output: list[Item] = []
        self.open = False  # the last item of the output
        self.number = 0  # of the next event
        self.status = "in_progress"
        self.summarised = (request.reasoning or {}).get("summary") not in (None, "none")

    def write(self, batch: Sequence[events.Event]) -> bytes:
        """Server-sent events."""
        data = b"".join(self._event(*value) for one in batch for value in self._values(one))
        return data + DONE if isinstance(batch[-1], events.Usage | events.Error) else data

    def whole(self, collected: Collected) -> dict[str, Any]:
        """The response."""
        for one in collected.events:
            for _ in self._values(one):
                continue
        return self.response(collected.usage)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        self.number += 1
        return event({"type": name, "sequence_number": self.number - 1, **fields}, name=name)

    def response(self, used: events.Usage | None = None, problem: events.Error | None = None) -> dict[str, Any]:
        """The response as it is now."""
        r, over = self.request, self.status != "in_progress"
        reason = {"incomplete": "max_output_tokens", "cancelled": "cancelled"}.get(self.status)
        error = {"code": problem.kind, "message": problem.message} if problem else None
        effort = (r.reasoning or {}).get("effort", r.reasoning_effort)
        return {
            "id": f"resp_{self.head.id}", "object": "response", "created_at": self.head.created,
            "completed_at": self._ended(used), "status": self.status,
            "incomplete_details": {"reason": reason} if reason else None, "model": self.head.model,
            "previous_response_id": r.previous_response_id, "instructions": r.instructions, "output": self.output,
            "error": error, "tools": [_shown(tool) for tool in r.tools], "tool_choice": r.tool_choice or "auto",
            "truncation": "disabled", "parallel_tool_calls": r.parallel_tool_calls, "text": _text_shown(r.text),
            "top_p": 1.0 if r.top_p is None else r.top_p, "presence_penalty": r.presence_penalty or 0.0,
            "frequency_penalty": r.frequency_penalty or 0.0, "top_logprobs": r.top_logprobs or 0,
            "temperature": 1.0 if r.temperature is None else r.temperature,
            "reasoning": {"effort": effort, "summary": (r.reasoning or {}).get("summary")},
            "usage": usage(used) if over and used else None, "max_output_tokens": r.max_output_tokens,
            "max_tool_calls": r.max_tool_calls, "store": r.store, "background": r.background, "service_tier": "default",
            "metadata": r.metadata or {}, "safety_identifier": r.safety_identifier, "user": r.user,
            "prompt_cache_key": r.prompt_cache_key,
        }  # fmt: skip

    def _ended(self, used: events.Usage | None) -> int | None:
        if used is None or self.status != "completed":
            return None
        return self.head.created + int(used.prefill_s + used.decode_s)

    def _values(self, one: events.Event) -> Iterator[tuple[str, dict[str, Any]]]:
        match one:
            case events.Start():
                yield "response.created", {"response": self.response()}
                yield "response.in_progress", {"response": self.response()}
            case events.Reasoning():
                yield from self._think(one.text)
            case events.Text():
                yield from self._say(one.text, one.logprobs)
            case events.ToolStart():
                yield from self._begin({"type": "function_call", "id": self._id("fc"), "call_id": one.id,
                                        "name": one.name, "arguments": "", "status": "in_progress"})  # fmt: skip
            case events.ToolArgs():
                self.output[-1]["arguments"] += one.text
                yield "response.function_call_arguments.delta", {**self._place(), "delta": one.text}
            case events.ToolEnd():
                yield from self._end("completed")
            case events.Finish():
                if not self.output:
                    yield from self._begin_message()
                yield from self._end("incomplete" if one.reason in ("length", "cancelled") else "completed")
                self.status = ENDS[one.reason]
            case events.Usage():
                response = self.response(one)
                if self.request.store:
                    self.memory.keep(response)
                yield f"response.{'completed' if self.status == 'completed' else 'incomplete'}", {"response": response}
            case events.Error():
                self.status = "failed"
                response = self.response(problem=one)
                if self.request.background:
                    self.memory.keep(response)
                yield "response.failed", {"response": response}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self.head.id}_{len(self.output)}"

    def _place(self, index: str = "") -> dict[str, Any]:
        """Where the last item is, and its only part under the name that its events use."""
        part = {index: 0} if index else {}
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1, **part}

    def _begin(self, item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self._end("completed")
        self.output.append(item)
        self.open = True
        yield "response.output_item.added", {"output_index": len(self.output) - 1, "item": item}

    def _begin_message(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self._begin({"type": "message", "id": self._id("msg"), "status": "in_progress", "role": "assistant",
                                "content": []})  # fmt: skip
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.output[-1]["content"].append(part)
        yield "response.content_part.added", {**self._place("content_index"), "part": part}

    def _say(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[tuple[str, dict[str, Any]]]:
        is_open = self.open and self.output[-1]["type"] == "message"
        if not text and not (logprobs and is_open):
            return
        if not is_open:
            yield from self._begin_message()
        part, said = self.output[-1]["content"][0], [token_logprob(token) for token in logprobs]
        part["text"] += text
        part["logprobs"] += said
        yield "response.output_text.delta", {**self._place("content_index"), "delta": text, "logprobs": said}

    def _think(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not text:
            return
        field = "summary" if self.summarised else "content"
        if not self.open or self.output[-1]["type"] != "reasoning":
            yield from self._begin({"type": "reasoning", "id": self._id("rs"), "summary": []})
            part = {"type": "summary_text" if self.summarised else "reasoning_text", "text": ""}
            self.output[-1][field] = [part]
            yield f"response.{self._part}.added", {**self._thought_place(), "part": part}
        self.output[-1][field][0]["text"] += text
        yield f"response.{self._name}.delta", {**self._thought_place(), "delta": text}

    @property
    def _name(self) -> str:
        return "reasoning_summary_text" if self.summarised else "reasoning"

    @property
    def _part(self) -> str:
        return "reasoning_summary_part" if self.summarised else "content_part"

    def _thought_place(self) -> dict[str, Any]:
        return self._place("summary_index" if self.summarised else "content_index")

    def _end(self, status: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Close the last item, if it is open."""
        if not self.open:
            return
        self.open, item = False, self.output[-1]
        match item["type"]:
            case "message":
                part, place = item["content"][0], self._place("content_index")
                yield "response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
                yield "response.content_part.done", {**place, "part": part}
            case "reasoning":
                part = (item["summary"] or item["content"])[0]
                yield f"response.{self._name}.done", {**self._thought_place(), "text": part["text"]}
                yield f"response.{self._part}.done", {**self._thought_place(), "part": part}
                if "reasoning.encrypted_content" in self.request.include:
                    item["encrypted_content"] = items.sealed(part["text"])
            case _:
                done = {**self._place(), "name": item["name"], "arguments": item["arguments"]}
                yield "response.function_call_arguments.done", done
        if item["type"] != "reasoning":
            item["status"] = status
        yield "response.output_item.done", {"output_index": len(self.output) - 1, "item": item}


def _shown(tool: _Tool) -> dict[str, Any]:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            "strict": tool.strict}  # fmt: skip


def _text_shown(text: _TextField) -> dict[str, Any]:
    form = text.format or {"type": "text"}
    if form.get("type") == "json_schema":
        form = {"description": None, "strict": False, "name": "", **form}
    return {"format": form, **({"verbosity": text.verbosity} if text.verbosity else {})}


def usage(used: events.Usage) -> dict[str, Any]:
    """Token counts."""
    return {
        "input_tokens": used.prompt_tokens, "output_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }  # fmt: skip

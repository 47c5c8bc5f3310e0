"""A model that runs elsewhere, behind an OpenAI-compatible endpoint: proxied, with the same events and accounting."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from octavo.chat import openai_wire as wire
from octavo.chat.remote import END, DataLines, headers_for
from octavo.core.errors import HubError, OctavoError, RequestError
from octavo.serve import events
from octavo.serve.engines import Listener, State
from octavo.serve.errors import TOO_LONG, Refusal
from octavo.serve.job import Job
from octavo.serve.stream import Stream

TIMEOUT = httpx.Timeout(10.0, read=600.0, pool=None)  # seconds; a model may think for long before its first token
LOOK_AGAIN_S = 5.0  # at an endpoint that did not answer
KINDS = {400: "invalid_request_error", 404: "not_found_error", 413: "request_too_large", 422: "invalid_request_error",
         429: "rate_limit_error", 503: "overloaded"}  # fmt: skip
MOST_COUNTED = 1 << 53  # tokens; more than any reply has, and the ledger holds 64 bits


class RemoteModel:
    """One model of one endpoint, with the face of a `LocalModel`.

    address   of the endpoint, ending in /v1; the model's name there after a #, where it serves several
    """

    def __init__(self, name: str, address: str, *, changed: Listener) -> None:
        url, _, self.known_as = address.partition("#")
        self.name, self.url, self.changed = name, url.rstrip("/") + "/", changed
        self.state: State = "cold"
        self.problem = ""
        self.facts: dict[str, Any] = {}
        self.stats: dict[str, float] = {}
        self.step_age_s, self.beat_s, self.falls, self.used_s = 0.0, 0.0, 0, time.monotonic()
        self.octavo = False
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.client = httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, headers=headers_for(url, name=name))

    async def start(self) -> None:
        """Look what the endpoint serves. Raises Refusal where it cannot be reached."""
        if self.state == "ready":
            return
        try:
            answer = await self.client.get("models")
            answer.raise_for_status()
            models = msgspec.json.decode(answer.content)["data"]
            fitting = [m for m in models if m["id"] == self.known_as or not self.known_as]
        except (httpx.HTTPError, msgspec.DecodeError, KeyError, TypeError) as cause:
            self.problem = f"{self.url} does not answer as an OpenAI-compatible endpoint ({cause})."
            self._set("failed")
            raise Refusal(f"{self.name} cannot be reached now: try again later.", kind="overloaded",
                          retry_after_s=LOOK_AGAIN_S) from cause  # fmt: skip
        if len(fitting) != 1:
            names = ", ".join(str(m["id"]) for m in models[:10])
            self.problem = f"{self.url} serves {names}: name one of them after a #."
            self._set("failed")
            raise Refusal(f"{self.name} is not set up rightly: whoever runs this server finds why in its log.",
                          kind="server_error")  # fmt: skip
        found = fitting[0]
        self.known_as, self.octavo = found["id"], found.get("owned_by") == "octavo"
        context = found.get("max_model_len") or found.get("context_length")
        own = found.get("capabilities") if self.octavo else None
        self.facts = {**(own or {}), "context_tokens": context, "remote": True}
        self._set("ready")

    async def stop(self) -> None:
        """Let go of all connections."""
        for task in list(self.tasks.values()):
            task.cancel()
        await self.client.aclose()

    def submit(self, id: str, job: Job) -> Stream:
        """Have a job done there; its events come in the stream."""
        self.used_s = time.monotonic()
        stream = Stream(id, stop=self._cancel, end_thinking=self._end_thinking)
        relay = Relay(replies=job.replies)
        task = asyncio.get_running_loop().create_task(self._do(stream, job, relay))
        self.tasks[id] = task
        task.add_done_callback(lambda task: self._done(stream, relay, cancelled=task.cancelled()))
        return stream

    async def ask(self, what: Any, about: Any) -> Any:
        """Refused: the tokens of a model that runs elsewhere are not known here."""
        raise Refusal(f"{self.name} runs elsewhere: {what} cannot be asked of it here.")

    @property
    def busy(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self.tasks)

    def _cancel(self, id: str) -> None:
        if task := self.tasks.get(id):
            task.cancel()

    def _end_thinking(self, id: str) -> None:
        """Refused: not in this protocol."""
        raise Refusal(f"{self.name} runs elsewhere: its thinking cannot be ended from here.")

    def _done(self, stream: Stream, relay: "Relay", *, cancelled: bool) -> None:
        """The task of a job is over, and with it the job, whatever ended it: nobody waits for more."""
        self.tasks.pop(stream.id, None)
        for event in relay.cut() if cancelled else ():
            stream.push(event)
        stream.push(events.Error(f"{self.name}: a fault of this server's own: ask again.", "server_error"))

    async def _do(self, stream: Stream, job: Job, relay: "Relay") -> None:
        try:
            path, body = self._asked(job)
            async with self.client.stream("POST", path, json=body) as response:
                if response.is_error:
                    stream.push(_refusal(self.name, response, await response.aread()))
                    return
                stream.push(events.Start())
                async for data in _data(response):
                    if data == "[DONE]":
                        break
                    for event in relay.read(wire.read_chunk(data)):
                        stream.push(event)
            for event in relay.end():
                stream.push(event)
        except httpx.HTTPError as cause:
            self._set("failed")
            stream.push(
                events.Error(f"{self.name} cannot be reached ({type(cause).__name__}): ask again.", "overloaded")
            )
        except HubError as cause:
            stream.push(events.Error(f"{self.name}: {cause}", "server_error"))
        except OctavoError as cause:
            stream.push(events.Error(str(cause), "invalid_request_error"))

    def _asked(self, job: Job) -> tuple[str, dict[str, Any]]:
        """Path and body of the request. Raises RequestError for what cannot be asked there."""
        if job.sampling.get("logprobs") is not None:
            raise RequestError("log-probabilities cannot be asked of a model that runs elsewhere: leave them out.")
        if job.resume and not self.octavo:
            raise RequestError("a model that runs elsewhere cannot go on with an assistant's message: end with a user.")
        if job.prompts:
            options = wire.sampling_fields(job.sampling, octavo=self.octavo)
            options = {"model": self.known_as, "prompt": list(job.prompts), "stream": True, **options}
            return "completions", options | {"stream_options": {"include_usage": True}}
        body = wire.request_body(
            self.known_as, job.messages, tools=job.tools, sampling=job.sampling, thinking=job.thinking,
            octavo=self.octavo,
        )  # fmt: skip
        return "chat/completions", body | _tool_fields(job) | ({"continue_final_message": True} if job.resume else {})

    def _set(self, state: State) -> None:
        self.state = state
        self.changed(self)


async def _data(response: httpx.Response) -> AsyncIterator[str]:
    lines = DataLines()
    async for piece in response.aiter_bytes():
        for data in lines.push(piece):
            yield data
    for data in lines.push(END):
        yield data


def _tool_fields(job: Job) -> dict[str, Any]:
    """The tool choice, and which tools are strict, as the wire has them. Raises RequestError for several names."""
    choice = job.choice
    if not job.tools:
        return {}
    if len(choice.only) > 1:
        raise RequestError("allowed_tools with several names cannot be asked of a model that runs elsewhere.")
    body: dict[str, Any] = {"parallel_tool_calls": choice.parallel}
    if choice.only:
        body["tool_choice"] = {"type": "function", "function": {"name": choice.only[0]}}
    elif choice.mode != "auto":
        body["tool_choice"] = choice.mode
    if choice.strict:
        tools = [tool.as_openai() for tool in job.tools]
        body["tools"] = [{**t, "function": {**t["function"], "strict": t["function"]["name"] in choice.strict}}
                         for t in tools]  # fmt: skip
    return body


class Relay:
    """Chunks of the endpoint -> events."""

    def __init__(self, *, replies: int) -> None:
        self.ended: dict[int, events.Finish] = {}
        self.calls = [list[int]() for _ in range(replies)]  # of each reply: the endpoint's numbers of its calls
        self.usage = wire.Usage()
        self.started_s, self.first_s = time.perf_counter(), 0.0

    def read(self, chunk: wire.Chunk) -> list[events.Event]:
        """The events of one chunk. Raises HubError for one that is an error."""
        if chunk.error is not None:
            raise HubError(f"the endpoint stopped with an error: {str(chunk.error)[:300]}")
        if chunk.usage is not None:
            self.usage = chunk.usage
        found: list[events.Event] = []
        for choice in chunk.choices:
            if choice.index < len(self.calls):
                found += self._choice(choice)
        if found and not self.first_s:
            self.first_s = time.perf_counter()
        return found

    def _choice(self, choice: wire.Choice) -> list[events.Event]:
        i, delta, found = choice.index, choice.delta, list[events.Event]()
        if thought := delta.reasoning_content or delta.reasoning:
            found.append(events.Reasoning(thought, i))
        if text := delta.content or choice.text:
            found.append(events.Text(text, i))
        for call in delta.tool_calls or ():
            found += self._call(call, i)
        if choice.finish_reason is not None:
            found += [events.ToolEnd(len(self.calls[i]) - 1, i)] if self.calls[i] else []
            self.ended[i] = events.Finish(wire.FINISH.get(choice.finish_reason, "stop"), i)
            found.append(self.ended[i])
        return found

    def _call(self, call: wire.Call, i: int) -> list[events.Event]:
        known, found = self.calls[i], list[events.Event]()
        function = call.function
        if call.index not in known:
            found += [events.ToolEnd(len(known) - 1, i)] if known else []
            known.append(call.index)
            found.append(events.ToolStart(call.id or f"call_{call.index}", function.name or "", len(known) - 1, i))
        if function.arguments:
            found.append(events.ToolArgs(function.arguments, known.index(call.index), i))
        return found

    def end(self) -> list[events.Event]:
        """What follows the last chunk. Raises HubError where the endpoint broke off."""
        if len(self.ended) < len(self.calls):
            raise HubError("the reply ended in the middle, without a reason: ask again.")
        return [self._used()]

    def cut(self) -> list[events.Event]:
        """What follows where nobody wants the rest: replies that had not ended are cancelled."""
        found = list[events.Event]()
        for i, calls in enumerate(self.calls):
            if i not in self.ended:
                found += [events.ToolEnd(len(calls) - 1, i)] if calls else []
                found.append(events.Finish("cancelled", i))
        return [*found, self._used()]

    def _used(self) -> events.Usage:
        now_s, used = time.perf_counter(), self.usage
        first_s = self.first_s or now_s
        return events.Usage(
            prompt_tokens=_counted(used.prompt_tokens), cached_tokens=_counted(used.cached_tokens),
            completion_tokens=_counted(used.completion_tokens), reasoning_tokens=_counted(used.reasoning_tokens),
            prefill_s=first_s - self.started_s, decode_s=now_s - first_s,
        )  # fmt: skip


def _counted(tokens: int) -> int:
    """What an endpoint says that it counted, as a number that can be one."""
    return min(max(tokens, 0), MOST_COUNTED)


def _refusal(name: str, response: httpx.Response, body: bytes) -> events.Error:
    """What the endpoint refused, in our words; its own where the client can do something about it."""
    status, wait = response.status_code, response.headers.get("retry-after", "")
    wait_s = float(wait) if re.fullmatch("[0-9]{1,6}", wait) else None  # a date is left to the kind
    if response.headers.get("x-should-retry") == "false" or b"insufficient_quota" in body[:4096]:
        wait_s = math.inf
    if status in (401, 403):
        return events.Error(f"{name}: the endpoint does not take this server's key: tell who runs it.", "server_error")
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = TOO_LONG if TOO_LONG.encode() in body[:4096] else ""
    return events.Error(f"{name}: the endpoint refused ({status}): {wire.reason(body)}", kind, wait_s, code)

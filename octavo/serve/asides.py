"""What is answered at once, beside the dialects: prompts shown and counted, text to tokens and back, live control."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from octavo.serve.dialects import chat
from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.http import Desk, Doing, ErrorBody, as_json, id_of, openai_error, refused
from octavo.serve.job import Job
from octavo.serve.listing import described
from octavo.serve.wire import Asked, read

Work = Callable[[Request, Tenant], Awaitable[Any]]
Decode = Callable[[bytes, Tenant], Asked]


class Aside:
    """An endpoint whose answer is the JSON value that `work` gives, or a refusal in the dialect's shape."""

    def __init__(self, desk: Desk, work: Work, *, error: ErrorBody = openai_error) -> None:
        self.desk, self.work, self.error = desk, work, error

    async def answer(self, request: Request) -> Response:
        """Do what the request asks."""
        request_id = id_of(request)
        try:
            tenant = self.desk.gate.identify(request.headers)
            return as_json(await self.work(request, tenant), headers={"x-request-id": request_id})
        except Refusal as refusal:
            return refused(refusal, request_id=request_id, error=self.error)


async def ask(desk: Desk, what: Literal["render", "count", "tokenize", "detokenize"], about: Any, *, model: str,
              tenant: Tenant) -> Any:  # fmt: skip
    """What a model says to a question: one request of the tenant's limits. It is loaded first. Raises Refusal."""
    found = desk.models.find(model)
    desk.gate.glance(tenant, found.name)
    await desk.models.start(found)
    return await found.ask(what, about)


def rendering(desk: Desk, decode: Decode) -> Work:
    """The prompt of a request, as text and as tokens; nothing is generated."""

    async def work(request: Request, tenant: Tenant) -> Any:
        job = decode(await request.body(), tenant).job
        found = await ask(desk, "render", job, model=job.model, tenant=tenant)
        return {"prompt": found["prompt"], "token_ids": found["tokens"], "count": len(found["tokens"])}

    return work


def counting(desk: Desk, decode: Decode, *, object: str = "") -> Work:
    """The length of a request's prompt.   object   what the answer calls itself, "": nothing"""
    more = {"object": object} if object else {}

    async def work(request: Request, tenant: Tenant) -> Any:
        job = decode(await request.body(), tenant).job
        return {**more, "input_tokens": await ask(desk, "count", job, model=job.model, tenant=tenant)}

    return work


class _Tokenize(Struct):
    model: str = ""
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool = True


class _Detokenize(Struct):
    tokens: list[int]
    model: str = ""


class Tokens:
    """`/tokenize` and `/detokenize`, in vLLM's shapes."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def tokenize(self, request: Request, tenant: Tenant) -> Any:
        """The tokens of a text, or of a conversation."""
        body = await request.body()
        asked, _ = read(body, _Tokenize)
        desk, model = self.desk, asked.model
        if asked.messages is not None:
            tokens = (await ask(desk, "render", chat.decode(body).job, model=model, tenant=tenant))["tokens"]
        elif asked.prompt is None:
            raise Refusal("prompt is missing: give text, or messages.", param="prompt")
        elif asked.add_special_tokens and asked.prompt:
            job = Job(model=model, prompts=(asked.prompt,))
            tokens = (await ask(desk, "render", job, model=model, tenant=tenant))["tokens"]
        else:
            tokens = await ask(desk, "tokenize", {"text": asked.prompt, "special": True}, model=model, tenant=tenant)
        longest = desk.models.find(model).facts.get("context_tokens")
        return {"count": len(tokens), "max_model_len": longest, "tokens": tokens, "token_strs": None}

    async def detokenize(self, request: Request, tenant: Tenant) -> Any:
        """The text of tokens."""
        asked, _ = read(await request.body(), _Detokenize)
        return {"prompt": await ask(self.desk, "detokenize", asked.tokens, model=asked.model, tenant=tenant)}


class _Control(Struct):
    id: str
    action: str


class Control:
    """Running requests, stopped or hurried by whoever sent them; models, read again."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def cancel(self, request: Request, tenant: Tenant) -> Any:
        """End a request: what there is so far is its answer."""
        doing = running(self.desk, request.path_params["id"], tenant)
        doing.stream.cancel()
        return {"id": request.path_params["id"], "success": True}

    async def end_thinking(self, request: Request, tenant: Tenant) -> Any:
        """Close a request's thinking and have it answer."""
        running(self.desk, request.path_params["id"], tenant).stream.end_thinking()
        return {"id": request.path_params["id"], "success": True}

    async def reload(self, request: Request, tenant: Tenant) -> Any:
        """Read a model's files again; what `/v1/models` says of it then. Raises Refusal while others' requests run."""
        model = self.desk.models.find(request.path_params["name"])
        self.desk.gate.glance(tenant, model.name)
        others = [one for one in self.desk.doing.values()
                  if one.job.model == model.name and not _same(one.tenant, tenant)]  # fmt: skip
        if others:
            raise Refusal(f"{len(others)} requests of other keys run on {model.name} and would end: ask again when "
                          f"they are over.", kind="overloaded")  # fmt: skip
        return described(await self.desk.models.reload(model.name))

    async def control(self, request: Request, tenant: Tenant) -> Any:
        """llama.cpp's way to say it."""
        asked, _ = read(await request.body(), _Control)
        if asked.action != "reasoning_end":
            raise Refusal(f"action {asked.action!r}: choose reasoning_end.", param="action")
        running(self.desk, asked.id, tenant).stream.end_thinking()
        return {"id": asked.id, "success": True}


def running(desk: Desk, id: str, tenant: Tenant) -> Doing:
    """A request that runs, by its id with or without a dialect's prefix. Raises Refusal for another tenant's too."""
    doing = desk.doing.get(id) or desk.doing.get(re.split("[-_]", id)[-1])
    if doing is None or not _same(doing.tenant, tenant):
        raise Refusal(f"no request {id!r} of yours is running.", kind="not_found_error", param="id")
    return doing


def _same(one: Tenant, other: Tenant) -> bool:
    return (one.workspace, one.key) == (other.workspace, other.key)

"""Embeddings and decisions over HTTP: admitted and counted like jobs, answered as questions."""

import time
from typing import Any, Literal

import msgspec
from starlette.requests import Request

from octavo.core.messages import Message
from octavo.serve.bounds import bounded
from octavo.serve.dialects import decisions, embeddings
from octavo.serve.events import Usage
from octavo.serve.gate import Tenant
from octavo.serve.http import Desk, Doing, unless_gone
from octavo.serve.job import Job
from octavo.serve.questions import Decide, Embed
from octavo.serve.stream import Stream

ONE = {"max_tokens": 1}


class Asking:
    """The two endpoints. What the gate is shown is a job of as many tokens."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def embed(self, request: Request, tenant: Tenant) -> Any:
        """`/v1/embeddings`."""
        asked, inputs = embeddings.decode(await request.body())
        text = " ".join(one if isinstance(one, str) else " ".join(map(str, one)) for one in inputs)
        job = Job(model=asked.model, prompts=(text,), sampling=ONE)
        about = Embed(inputs=inputs, dimensions=asked.dimensions, space=tenant.space)
        model, found = await unless_gone(
            request.receive, self._ask(job, tenant, request=request, what="embed", about=about)
        )
        return embeddings.body(asked, model=model, vectors=found["vectors"], tokens=found["tokens"])

    async def decide(self, request: Request, tenant: Tenant) -> Any:
        """`/v1/decisions`."""
        asked, messages, questions = decisions.decode(await request.body())
        text = "\n".join(" ".join((one.text, *one.options)) for one in questions)
        job = Job(model=asked.model, messages=(*messages, Message(role="user", content=text)), sampling=ONE)
        space = tenant.within(asked.prompt_cache_key or "")
        about = Decide(messages=messages, questions=questions, space=space)
        model, found = await unless_gone(
            request.receive, self._ask(job, tenant, request=request, what="decide", about=about)
        )
        return decisions.body(asked, model=model, **found)

    async def _ask(self, job: Job, tenant: Tenant, *, request: Request, what: Literal["embed", "decide"],
                   about: Embed | Decide) -> tuple[str, Any]:  # fmt: skip
        """The model's name, and what it answers. Raises Refusal."""
        bounded(job)
        model = self.desk.models.find(job.model)
        job = msgspec.structs.replace(job, model=model.name, space=about.space)
        id, came_s = request.scope["request_id"], time.perf_counter()
        ticket = await self.desk.enter(tenant, job, dialect=what, request_id=id)
        now_s, plain = time.perf_counter(), msgspec.structs.replace(job, sampling={})
        doing = Doing(_silent(id), ticket, tenant, plain, what, now_s, queued_s=now_s - came_s)
        for watch in self.desk.watches:
            watch.began(doing)
        used, finish = Usage(), "error"
        try:
            await self.desk.models.start(model)
            found = await model.ask(what, about)
            used, finish = Usage(prompt_tokens=found["tokens"], cached_tokens=found["cached"]), "stop"
        finally:
            ticket.settle(used, finish=finish)
            for watch in self.desk.watches:
                watch.ended(doing, used, finish=finish)
        await ticket.kept()
        return model.name, found


def _silent(id: str) -> Stream:
    """The stream of what has no events: watches know jobs by it."""
    return Stream(id, stop=lambda id: None, end_thinking=lambda id: None)

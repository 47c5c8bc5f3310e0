"""The whole server as one ASGI application: routes, and nothing else."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from starlette.routing import Route, Router

from octavo.serve.asides import Aside, Control, Tokens, Work, counting, rendering
from octavo.serve.asking import Asking
from octavo.serve.dialects import chat, completions, decisions, embeddings, messages
from octavo.serve.gate import Gate, OpenGate
from octavo.serve.gateway.gateway import Gateway
from octavo.serve.gateway.routes import Doors
from octavo.serve.guard import Guard, Walls
from octavo.serve.http import Desk, Dialect, Endpoint, Watch, openai_error
from octavo.serve.journal import Journal
from octavo.serve.listing import Listing
from octavo.serve.metrics import Metrics
from octavo.serve.models import Models
from octavo.serve.openapi import OpenApi
from octavo.serve.page.routes import page_routes
from octavo.serve.responses import Responses

DIALECTS = (
    Dialect("chat", chat.PATH, chat.decode, openai_error),
    Dialect("completions", completions.PATH, completions.decode, openai_error),
    Dialect("messages", messages.PATH, messages.decode, messages.error),
)


def application(models: Models, *, gate: Gate | None = None, walls: Walls = Walls(),
                journal: Journal | None = None, watches: Sequence[Watch] = ()) -> Guard:  # fmt: skip
    """The server. The first model is loaded when it starts, the others when they are asked for."""
    gate, journal = gate or OpenGate(), journal or Journal("off")
    metrics = Metrics()
    desk = metrics.desk = Desk(models, gate, (journal, metrics, *watches))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[None]:
        models.begin()
        if doors is not None:
            doors.runner.begin(guard)
        yield
        if doors is not None:
            await doors.runner.stop()
        await models.close()
        await desk.rested()
        if doors is not None:
            doors.gateway.close()

    listing = Listing(desk)
    responses = Responses(desk)
    endpoints = [responses, *(Endpoint(desk, dialect) for dialect in DIALECTS)]
    routes = [Route(endpoint.dialect.path, endpoint.answer, methods=["POST"]) for endpoint in endpoints]
    routes += asides(desk, endpoints, responses)
    routes += [
        Route("/v1/models", listing.all, methods=["GET"]),
        Route("/v1/models/{name:path}", listing.one, methods=["GET"]),
        Route("/health/live", listing.live, methods=["GET"]),
        Route("/health/ready", listing.ready, methods=["GET"]),
        Route("/health", listing.ready, methods=["GET"]),
        Route("/metrics", metrics.metrics, methods=["GET"]),
        Route("/load", metrics.load, methods=["GET"]),
        Route("/version", metrics.version, methods=["GET"]),
    ]
    doors = Doors(gate) if isinstance(gate, Gateway) else None
    routes += doors.routes() if doors else []
    routes.append(Route("/openapi.json", OpenApi(routes).answer, methods=["GET"]))
    routes += page_routes(desk.gate)
    router = Router(routes, lifespan=lifespan)
    guard = Guard(router, gate, journal=journal, dialects=DIALECTS, walls=walls)
    return guard


def asides(desk: Desk, endpoints: Sequence[Endpoint], responses: Responses) -> list[Route]:
    """What is answered at once: of each dialect the prompt that it makes, counts, tokens, and live control."""
    found = [
        Route(f"{one.dialect.path}/render", Aside(desk, rendering(desk, one.decode), error=one.dialect.error).answer,
              methods=["POST"]) for one in endpoints
    ]  # fmt: skip
    tokens, control = Tokens(desk), Control(desk)
    count = counting(desk, lambda body, tenant: messages.decode(body, counting=True))
    kept = "/v1/responses/{id}"
    works: list[tuple[str, Work, str]] = [
        ("POST", counting(desk, responses.decode, object="response.input_tokens"), "/v1/responses/input_tokens"),
        ("POST", responses.compact, "/v1/responses/compact"), ("GET", responses.retrieve, kept),
        ("DELETE", responses.delete, kept), ("POST", responses.cancel, f"{kept}/cancel"),
        ("GET", responses.items, f"{kept}/input_items"),
        ("POST", tokens.tokenize, "/tokenize"), ("POST", tokens.detokenize, "/detokenize"),
        ("POST", control.cancel, "/v1/requests/{id}/cancel"),
        ("POST", control.end_thinking, "/v1/requests/{id}/end_thinking"),
        ("POST", control.control, "/v1/chat/completions/control"),
        ("POST", control.reload, "/v1/models/{name:path}/reload"),
    ]  # fmt: skip
    asking = Asking(desk)
    works += [("POST", asking.embed, embeddings.PATH), ("POST", asking.decide, decisions.PATH)]
    found += [Route(path, Aside(desk, work).answer, methods=[method]) for method, work, path in works]
    return [
        *found,
        Route("/v1/messages/count_tokens", Aside(desk, count, error=messages.error).answer, methods=["POST"]),
    ]

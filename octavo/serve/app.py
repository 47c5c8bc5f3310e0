"""The whole server as one ASGI application: routes, and nothing else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.routing import Route, Router

from octavo.serve.dialects import chat
from octavo.serve.gate import Gate, OpenGate
from octavo.serve.guard import Guard, Walls
from octavo.serve.http import Desk, Dialect, Endpoint, openai_error
from octavo.serve.journal import Journal
from octavo.serve.listing import Listing
from octavo.serve.metrics import Metrics
from octavo.serve.models import Models
from octavo.serve.openapi import OpenApi

DIALECTS = (Dialect("chat", chat.PATH, chat.decode, openai_error),)


def application(models: Models, *, gate: Gate | None = None, walls: Walls = Walls(),
                journal: Journal | None = None) -> Guard:  # fmt: skip
    """The server. The first model is loaded when it starts, the others when they are asked for."""
    gate, journal = gate or OpenGate(), journal or Journal("off")
    metrics = Metrics()
    desk = metrics.desk = Desk(models, gate, (journal, metrics))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[None]:
        models.begin()
        yield
        await models.close()

    listing = Listing(desk)
    routes = [Route(dialect.path, Endpoint(desk, dialect).answer, methods=["POST"]) for dialect in DIALECTS]
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
    routes.append(Route("/openapi.json", OpenApi(routes).answer, methods=["GET"]))
    router = Router(routes, lifespan=lifespan)
    return Guard(router, gate, journal=journal, dialects=DIALECTS, walls=walls)

"""The whole server as one ASGI application: routes, and nothing else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from octavo.serve.dialects import chat
from octavo.serve.gate import Gate, OpenGate
from octavo.serve.http import Desk, Dialect, Endpoint, openai_error
from octavo.serve.listing import Listing
from octavo.serve.models import Models
from octavo.serve.page.routes import page_routes

DIALECTS = (Dialect("chat", chat.PATH, chat.decode, openai_error),)


def application(models: Models, *, gate: Gate | None = None) -> Starlette:
    """The server. The first model is loaded when it starts, the others when they are asked for."""
    desk = Desk(models, gate or OpenGate())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
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
    ]
    routes += page_routes(desk.gate)
    return Starlette(routes=routes, lifespan=lifespan)

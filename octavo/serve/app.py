"""The whole server as one ASGI application: routes, and nothing else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from octavo.serve.dialects import chat
from octavo.serve.gate import Gate, OpenGate
from octavo.serve.gateway.gateway import Gateway
from octavo.serve.gateway.routes import Doors
from octavo.serve.http import Desk, Dialect, Endpoint, openai_error
from octavo.serve.listing import Listing
from octavo.serve.models import Models

DIALECTS = (Dialect("chat", chat.PATH, chat.decode, openai_error),)


def application(models: Models, *, gate: Gate | None = None) -> Starlette:
    """The server. The first model is loaded when it starts, the others when they are asked for."""
    desk = Desk(models, gate or OpenGate())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        models.begin()
        if doors is not None:
            doors.runner.begin(app.router)
        yield
        if doors is not None:
            await doors.runner.stop()
        await models.close()
        await desk.rested()
        if doors is not None:
            doors.gateway.close()

    listing = Listing(desk)
    routes = [Route(dialect.path, Endpoint(desk, dialect).answer, methods=["POST"]) for dialect in DIALECTS]
    routes += [
        Route("/v1/models", listing.all, methods=["GET"]),
        Route("/v1/models/{name:path}", listing.one, methods=["GET"]),
        Route("/health/live", listing.live, methods=["GET"]),
        Route("/health/ready", listing.ready, methods=["GET"]),
        Route("/health", listing.ready, methods=["GET"]),
    ]
    doors = Doors(gate) if isinstance(gate, Gateway) else None
    routes += doors.routes() if doors else []
    return Starlette(routes=routes, lifespan=lifespan)

"""The server on a socket: started, announced, drained."""

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager

import msgspec
import uvicorn
import uvloop
from msgspec import Struct

from octavo.core.errors import ConfigError
from octavo.serve.app import application
from octavo.serve.gateway.gateway import Gateway, Options
from octavo.serve.guard import Walls
from octavo.serve.journal import Journal, Kind
from octavo.serve.link import Open
from octavo.serve.models import Care, Models
from octavo.serve.sockets import BoundedProtocol
from octavo.serve.spans import spans_to

DRAIN_S = 120  # for running requests, once the server is told to stop


class Place(Struct, frozen=True, kw_only=True):
    """Where to listen, and to whom.

    port       0: any that is free;   log   how requests are logged on stderr
    insecure   where everybody can reach it, even without keys
    """

    host: str = "127.0.0.1"
    port: int = 8000
    walls: Walls = Walls()
    log: Kind = "text"
    otel: str = ""
    insecure: bool = False


class _Server(uvicorn.Server):
    """Told to stop by a signal, it finishes what it began and leaves with 0; told twice, at once."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Meanwhile SIGINT and SIGTERM end the serving, not the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def serve_forever(openings: Sequence[Open], place: Place, options: Options, *, care: Care = Care()) -> int:
    """Serve until told to stop. Returns the exit code. Raises ConfigError where it cannot or must not listen there."""
    watches = (spans_to(place.otel),) if place.otel else ()
    with closing(Gateway(options, default=openings[0].name)) as gateway:
        if gateway.open and not (place.insecure or is_loopback(place.host)):
            raise ConfigError(f"{place.host} can be reached from other machines, and nobody needs a key: make one with "
                              f"`octavo keys create NAME`, or give --insecure to let everybody in.")  # fmt: skip
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        try:
            sock = socket.create_server((place.host, place.port), family=family, reuse_port=False)
        except OSError as cause:
            raise ConfigError(f"{place.host}:{place.port} cannot be listened on ({cause.strerror}): choose another "
                              f"with --host and --port.") from cause  # fmt: skip
        walls = msgspec.structs.replace(place.walls, hosts=(*place.walls.hosts, place.host))
        journal = Journal(place.log)
        logger = logging.getLogger("uvicorn")
        logger.addHandler(journal.handler())
        logger.propagate = False
        app = application(Models(openings, care=care), gate=gateway, walls=walls, journal=journal, watches=watches)
        config = uvicorn.Config(
            app, http=BoundedProtocol, log_config=None, ws="none", lifespan="on", log_level="warning", access_log=False,
            server_header=False, timeout_graceful_shutdown=DRAIN_S,
        )  # fmt: skip
        name = f"[{place.host}]" if family == socket.AF_INET6 else place.host
        print(f"Octavo serves on http://{name}:{sock.getsockname()[1]}", file=sys.stderr, flush=True)
        uvloop.run(_Server(config).serve(sockets=[sock]))
        return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

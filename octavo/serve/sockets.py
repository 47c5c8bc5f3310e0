"""What uvicorn leaves open on a socket: how large a request's head may grow, and how long it may take to come."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 128 << 10  # while it is not whole; the guard looks at whole ones
HEAD_S = 30.0


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a connection whose request's head is too large or too slow is closed."""

    head_bytes = 0
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there: its first request has to come."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._met()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of several requests."""
        super().data_received(data)
        if self.timer is not None:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._met()
        super().on_headers_complete()

    def _expect(self) -> None:
        self._met()
        self.head_bytes = 0
        self.timer = asyncio.get_running_loop().call_later(HEAD_S, self._late)

    def _met(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        self.timer = None
        self.transport.close()

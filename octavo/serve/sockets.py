"""What uvicorn leaves open on a socket: how much a client may send that is no body, and how long it may take."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 128 << 10  # of a head that is not whole, and of trailers; the guard looks at whole heads
HEAD_S = 30.0
REST_S = 5.0  # for the rest of a body after its answer
UNREAD_S = 30.0  # in which a client has to take so many bytes of what waits for it, or all
LEAST_BYTES = 16 << 10


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a connection is closed whose request is too large beside its body, or too slow, and one whose
    client does not read.

    head_bytes   that came since the last of a body, or since the last request
    coming       the head of a request is whole, its body not yet
    unread       bytes that wait for a client who was too slow for them, at the last look; 0: it was not
    """

    head_bytes = unread = 0
    coming = False
    timer: asyncio.TimerHandle | None = None
    looker: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there: its first request has to come."""
        super().connection_made(transport)
        self._expect(HEAD_S)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._met()
        if self.looker is not None:
            self.looker.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of several requests."""
        self.head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.head_bytes > HEAD_BYTES and self.coming:
            self.transport.close()
        elif self.head_bytes > HEAD_BYTES:
            self.send_400_response("The request's head is too large.")
        elif self.timer is None and self.timeout_keep_alive_task is None and self.cycle.response_complete:
            self._expect(HEAD_S)  # line ends before a request: uvicorn waits no longer, and none has begun

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect(HEAD_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of its head, or a trailer: nobody asks for those."""
        if not self.coming:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._met()
        self.head_bytes, self.coming = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._met()
        self.head_bytes, self.coming = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered, perhaps before it was whole."""
        super().on_response_complete()
        if self.coming and self.cycle.response_complete:
            self._expect(REST_S)

    def resume_writing(self) -> None:
        """The client has read what waited for it."""
        self.unread = 0
        super().resume_writing()

    def _expect(self, seconds: float) -> None:
        self._met()
        self.timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def _met(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        self.timer = None
        self.transport.close()

    def _look(self) -> None:
        """Cut off a client that has hardly read since the last look, though what waits for it is all it will get."""
        stuck = self.flow.write_paused or self.transport.is_closing()
        unread = self.transport.get_write_buffer_size() if stuck else 0
        if self.unread and unread > max(0, self.unread - LEAST_BYTES):
            self.transport.abort()
            return
        self.unread = unread
        self.looker = asyncio.get_running_loop().call_later(UNREAD_S, self._look)

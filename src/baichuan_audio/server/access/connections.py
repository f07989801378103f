"""Limits of connections: their number, their time without a request, and the time in which a client reads nothing.

uvicorn's own limits are not enough: with `limit_concurrency` and `timeout_keep_alive` in place of these protocols, 12
of 14 tests in tests/server/test_connections.py fail. `limit_concurrency` refuses /health as well, in plain text;
`timeout_keep_alive` begins after a first response; and nothing ends a connection whose client reads nothing.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from ..settings import ServerSettings

_HEAD_S = 10.0  # for the head of a request to be received
_LOOK_S = 0.5
_MARGIN_S = 2.0  # for the application, which has the same limits, to end first with a reason
_CLOSE_S = 3.0  # for a client to answer the close of a WebSocket
_KERNEL_BYTES = 128 * 1024  # unsent in the kernel, which doubles it; it asks for more when a third is free
_MOST_UNSENT_FOR_PONGS = 64 * 1024
_CONNECTIONS_PER_SESSION = 8
_FEWEST_CONNECTIONS = 256
_SPARE_CONNECTIONS = 32  # above the limit, for /health and /metrics only
_SPARE_HEAD_S = 2.0


class _Unsent:
    """Detects a client that reads nothing of what a transport has to send. limit_s: how long it may do so."""

    def __init__(self, transport: asyncio.Transport, now: float, limit_s: float) -> None:
        self._transport, self._limit_s = transport, limit_s
        self._size, self._read_at = 0, now

    def progressed(self, now: float) -> None:
        """The client has read something; checks of the size may miss it, since more is soon written."""
        self._read_at = now

    def stalled(self, now: float) -> bool:
        """To be called regularly."""
        size = self._transport.get_write_buffer_size()
        if size == 0 or size < self._size:
            self._read_at = now
        self._size = size
        return now - self._read_at > self._limit_s


def http_protocol(settings: ServerSettings, max_sessions: int, protocol: Any = AutoHTTPProtocol) -> Any:
    """One of uvicorn's HTTP protocols (by default the one it would choose), with limits.

    A connection is aborted when no head of a request is received for 10 s, and when its client reads nothing of a
    response for 20 s. Above the limit of connections, WebSockets included, a few more are accepted, marked `spare` in
    the state of their requests: the server answers /health and /metrics there. When these are in use, too, the oldest
    is aborted. `abort` in that state aborts a connection, whatever is unsent.
    """
    limit = max(_FEWEST_CONNECTIONS, _CONNECTIONS_PER_SESSION * max_sessions)
    head_s = min(_HEAD_S, settings.idle_seconds)
    spares: dict[Any, None] = {}  # in order of arrival

    class HttpProtocol(protocol):
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            _bound_kernel_buffer(transport)
            now = self.loop.time()
            self._unsent, self._waiting_since = _Unsent(transport, now, settings.stalled_seconds + _MARGIN_S), now
            spare = len(self.connections) - len(spares) > limit
            if spare:
                while len(spares) >= _SPARE_CONNECTIONS:
                    oldest = next(iter(spares))
                    del spares[oldest]
                    self.connections.discard(oldest)
                    oldest.transport.abort()
                spares[self] = None
            self._head_s = min(head_s, _SPARE_HEAD_S) if spare else head_s
            self.app_state = {**self.app_state, "abort": transport.abort, "spare": spare}  # the original is shared
            self._timer = self.loop.call_later(_LOOK_S, self._check)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            spares.pop(self, None)
            super().connection_lost(exc)

        def resume_writing(self) -> None:
            self._unsent.progressed(self.loop.time())
            super().resume_writing()

        def _check(self) -> None:
            if self not in self.connections:  # it has become a WebSocket
                spares.pop(self, None)
                return
            now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
            at_work = self.cycle is not None and not (self.cycle.response_complete or self.transport.is_closing())
            if at_work or unsent:
                self._waiting_since = now
            if self._unsent.stalled(now) or now - self._waiting_since > self._head_s:
                self.transport.abort()
                return
            self._timer = self.loop.call_later(_LOOK_S, self._check)

    return HttpProtocol


def websocket_protocol(settings: ServerSettings, protocol: Any = AutoWebSocketsProtocol) -> Any:
    """One of uvicorn's WebSocket protocols, which aborts a connection when its client reads nothing for 20 s.

    It does so after the session's end as well: an orderly close would wait for the client without limit.
    """

    class WebSocketProtocol(protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.close_timeout = _CLOSE_S
            self._unsent = _Unsent(transport, self.loop.time(), settings.stalled_seconds + _MARGIN_S)
            self._timer = self.loop.call_later(_LOOK_S, self._check)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def resume_writing(self) -> None:
            self._unsent.progressed(self.loop.time())
            super().resume_writing()

        def handle_ping(self, *event: Any) -> None:
            """Answer, but not while much is unsent: pings could otherwise fill the memory."""
            if self.transport.get_write_buffer_size() > _MOST_UNSENT_FOR_PONGS and hasattr(self.conn, "data_to_send"):
                self.conn.data_to_send()  # drops the answer
            else:
                super().handle_ping(*event)

        def _check(self) -> None:
            if self._unsent.stalled(self.loop.time()):
                self.transport.abort()
                return
            self._timer = self.loop.call_later(_LOOK_S, self._check)

    return WebSocketProtocol


def _bound_kernel_buffer(transport: asyncio.Transport) -> None:
    """By default the kernel buffers megabytes for a client that reads nothing."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)

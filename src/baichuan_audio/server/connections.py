"""Connections: how many there may be, and how long one may stay open with nothing going on."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .limits import LEAST_BYTES_PER_S
from .settings import ServerSettings

_HEAD_S = 10.0  # for the head of a request to come
_KERNEL_STEP = 2 * 1024**2
_CONNECTIONS_PER_SESSION = 8
_FEWEST_CONNECTIONS = 256


def http_protocol(settings: ServerSettings, max_sessions: int, protocol: Any = AutoHTTPProtocol) -> Any:
    """One of uvicorn's HTTP protocols (by default the one it would take), without connections that stay for ever.

    A connection is ended when it is one too many, when no head of a request has come for 10 s, and when nothing of an
    answer that lies ready has been taken for `idle_seconds`, or longer where there is much of it. WebSockets count, and
    are otherwise left alone.
    """
    most = max(_FEWEST_CONNECTIONS, _CONNECTIONS_PER_SESSION * max_sessions)
    head_s = min(_HEAD_S, settings.idle_seconds)

    class HttpProtocol(protocol):
        _timer: asyncio.TimerHandle
        _unsent = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._look_later()
            if len(self.connections) > most:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._timer.cancel()
            self._look_later()

        def _look_later(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            # The kernel asks for more in steps of a megabyte: nothing may go from here for a while though all is well.
            taken_by = max(settings.idle_seconds, min(self._unsent, _KERNEL_STEP) / LEAST_BYTES_PER_S)
            self._timer = self.loop.call_later(taken_by if self._unsent else head_s, self._look)

        def _look(self) -> None:
            if self not in self.connections:  # it has become a WebSocket
                return
            at_work = self.cycle is not None and not (self.cycle.response_complete or self.transport.is_closing())
            if at_work or self.transport.get_write_buffer_size() < self._unsent:
                self._look_later()
            else:
                self.transport.abort()

    return HttpProtocol

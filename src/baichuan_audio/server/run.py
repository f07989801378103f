"""Runs the application in one process: the socket, the log, and a graceful shutdown."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from ..engine import Engine
from ..errors import BaichuanAudioError
from .access.connections import http_protocol, websocket_protocol
from .app import create_app
from .monitoring.logging import collect_logs
from .settings import ServerSettings

_CLOSE_S = 3.0
_EXIT_CODE = 130


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet. Raises BaichuanAudioError when it is not available."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise BaichuanAudioError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port."
        ) from error
    return bound


def run(
    engine: Engine,
    settings: ServerSettings,
    bound: socket.socket,
    grace_s: float,
    on_ready: Callable[[], None],
    on_stop: Callable[[int], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then let replies finish; a second signal ends the process at once.

    grace_s: how long that may take; replies still in progress then end with an error. on_ready: called when the engine
    is warm and the socket listens. on_stop: called at the signal, with the number of requests and sessions in progress.
    """
    app = create_app(engine, settings)
    collect_logs(app.state.log)
    config = uvicorn.Config(
        app,
        http=http_protocol(settings, engine.config.max_sessions),
        ws=websocket_protocol(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=settings.max_message_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(_CLOSE_S),
    )
    server = _Server(config, engine, grace_s, on_ready, on_stop)
    try:
        server.run(sockets=[bound])
    except SystemExit as error:
        raise BaichuanAudioError("the server could not start; the log says why.") from error
    finally:
        asyncio.run(engine.stop(_CLOSE_S))  # where the start failed: its threads must end before the interpreter does


class _Server(uvicorn.Server):
    """uvicorn's server with a graceful shutdown at the first signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        grace_s: float,
        on_ready: Callable[[], None],
        on_stop: Callable[[int], None],
    ) -> None:
        super().__init__(config)
        self._engine, self._grace_s = engine, grace_s
        self._on_ready, self._on_stop = on_ready, on_stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shutdown_task: asyncio.Task[None] | None = None
        state = config.app.state  # type: ignore[union-attr]
        self._work, self._reader = state.work, state.reader

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._reader.prepare()
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._work.closing:
            os._exit(_EXIT_CODE)  # an orderly exit would wait for the engine's threads
        if self._loop is None or not self.started:
            self.should_exit = True
            return
        self._work.close()
        self._loop.call_soon_threadsafe(self._begin_shutdown)

    def _begin_shutdown(self) -> None:
        self._on_stop(self._work.count)
        self._shutdown_task = asyncio.ensure_future(self._shut_down())

    async def _shut_down(self) -> None:
        if not await self._work.wait_idle(self._grace_s):
            await self._engine.stop(_CLOSE_S)  # every reply ends with a reason
            await self._work.wait_idle(_CLOSE_S)
        self.should_exit = True

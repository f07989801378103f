"""Admission control: every HTTP request is checked and counted here before any of its body is read.

Starlette's own middlewares do not do. CORSMiddleware knows a fixed list of origins, not the server's own (which depends
on the Host header), repeats any header name of a preflight, and refuses in plain text. RequestBodyLimitMiddleware
(Starlette 1.10, Python 3.11) refuses in plain text, too, and has no time limit for a body.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError, as_api_error
from ..settings import ServerSettings, is_token
from . import auth

if TYPE_CHECKING:
    from fastapi import FastAPI

_REQUESTS_PER_SESSION = 4
_MIN_REQUESTS = 32
_MIN_BYTES_PER_S = 16_384  # of a body
_BODY_S = (
    20.0  # without a piece of it; shorter than `idle_seconds`, since a request that waits counts against the limit
)
_SPARE_PATHS = ("/health", "/metrics")
_CORS = {
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-max-age": "600",
}
_MAX_HEADERS, _MAX_HEADER_CHARACTERS = 50, 100  # openai's client in a browser sends a dozen


class GracefulShutdown:
    """Counts requests and sessions in progress, so that a server that shuts down can let them end first."""

    def __init__(self) -> None:
        self.closing = False
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()

    @property
    def count(self) -> int:
        """Requests and sessions in progress."""
        return self._count

    def close(self) -> None:
        """Accept nothing new."""
        self.closing = True
        self._closing.set()

    async def wait_closing(self) -> None:
        """Wait until `close` is called: sessions should end then."""
        await self._closing.wait()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Counts the block as in progress. Raises ApiError 503 after `close`."""
        if self.closing:
            raise ApiError(503, "the server is shutting down.", code="shutting_down")
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is in progress -> whether that happened in time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True


class AdmissionMiddleware:
    """ASGI middleware for HTTP: host, origin and key; size of the body; stalled clients; errors in one shape."""

    def __init__(self, inner: ASGIApp, app: FastAPI) -> None:
        self._inner, self._app = inner, app
        settings: ServerSettings = app.state.settings
        self._settings = settings
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope = {**scope, "path": _without_slash(scope["path"])}
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        without_body = scope["method"] == "HEAD"
        scope = {**scope, "path": _without_slash(scope["path"]), "app": self._app}
        if scope["method"] == "HEAD":  # the response to a GET without its body
            scope["method"] = "GET"
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(Request(scope), receive, send, self._settings, without_body)
        try:
            await self._admit(exchange)
        except _Stalled:
            self._app.state.log.write("stalled", path=exchange.endpoint)
            self._app.state.metrics.error("stalled")
            exchange.abort()
        except Exception as error:
            body_error, exchange.body_error = exchange.body_error, None
            await self._report(exchange, body_error or error)
        if exchange.status:
            self._app.state.metrics.request(exchange.endpoint, exchange.status)

    async def _admit(self, exchange: _Exchange) -> None:
        request = exchange.request
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            # a browser's preflight, without a key
            await exchange.preflight()
            return
        if exchange.is_spare and request.scope["path"] not in _SPARE_PATHS:
            raise ApiError(503, "too many connections at once; try again shortly.", code="too_many_connections")
        auth.check_http(request)
        exchange.check_length()
        if not request.scope["path"].startswith("/v1/"):
            await self._inner(request.scope, exchange.receive, exchange.send)
            return
        stats = self._app.state.engine.stats()
        if self._busy >= max(_MIN_REQUESTS, _REQUESTS_PER_SESSION * (stats.active_sessions + stats.slots_free)):
            raise ApiError(429, "too many requests at once; try again shortly.", code="too_many_requests")
        self._busy += 1
        try:
            async with self._app.state.work.at_work():
                await self._inner(request.scope, exchange.receive, exchange.send)
        finally:
            self._busy -= 1

    async def _report(self, exchange: _Exchange, error: Exception) -> None:
        api_error = as_api_error(error)
        if api_error.status >= 500 and api_error.code == "internal_error":
            self._app.state.log.exception(error)
        self._app.state.metrics.error(api_error.code or str(api_error.status))
        if not exchange.status:
            if not exchange.body_read:
                api_error.headers["Connection"] = "close"  # the rest of the body is not read
            await api_error.response()(exchange.request.scope, exchange.receive, exchange.send)


class _Stalled(Exception):
    """The client does not read the response."""


class _Exchange:
    """One request and its response."""

    def __init__(
        self, request: Request, receive: Receive, send: Send, settings: ServerSettings, without_body: bool
    ) -> None:
        self.request, self._without_body = request, without_body
        self.status = 0
        self.body_read = not {"content-length", "transfer-encoding"} & set(request.headers)
        self._receive, self._send, self._settings = receive, send, settings
        self._began, self._received = time.monotonic(), 0
        self.body_error: ApiError | None = None

    @property
    def is_spare(self) -> bool:
        """Whether the connection is one of the few above the limit (server/access/connections.py)."""
        return bool(self.request.scope["state"].get("spare"))

    def abort(self) -> None:
        """Abort the connection, where the server that runs the application allows it."""
        abort = self.request.scope["state"].get("abort")
        if abort is not None:
            abort()

    @property
    def endpoint(self) -> str:
        """The path of the route; never what a client sent."""
        route = self.request.scope.get("route")
        return str(getattr(route, "path", "") or "none")

    def check_length(self) -> None:
        """Refuse a body by its announced length. Raises ApiError 413 or 400."""
        announced = self.request.headers.get("content-length")
        if announced is None:
            return
        if not (announced.isascii() and announced.isdigit()):
            raise ApiError(400, "the Content-Length is not a number.")
        if int(announced) > self._settings.max_message_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next piece of the body, within its limits; then the client's disconnect."""
        if self.body_read:
            return await self._receive()
        try:
            with anyio.fail_after(self._time_left_s()):
                message = await self._receive()
        except TimeoutError:
            self.body_error = ApiError(408, "the rest of the body was not received in time.", code="request_timeout")
            raise self.body_error from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.body_read = not message.get("more_body", False)
            if self._received > self._settings.max_message_bytes:
                self.body_read = False
                self.body_error = self._too_large()
                raise self.body_error
        return message

    def _time_left_s(self) -> float:
        """Seconds to wait for more of the body, which has to keep up a least rate."""
        pause = min(_BODY_S, self._settings.idle_seconds)
        due = self._began + pause + self._received / _MIN_BYTES_PER_S
        return min(pause, due - time.monotonic())

    async def send(self, message: Message) -> None:
        """Send a message of the response. Raises _Stalled when the client does not read it."""
        if self.body_error is not None and not self.status:
            raise self.body_error  # whatever the framework answers
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = self.request.scope["state"]["request_id"]
            headers = {**self._origin_headers(), "x-content-type-options": "nosniff", "x-request-id": request_id}
            if self.is_spare:
                headers["connection"] = "close"
            message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in headers.items())]
        elif self._without_body:
            message = {**message, "body": b""}
        try:
            with anyio.fail_after(self._settings.stalled_seconds):
                await self._send(message)
        except TimeoutError:
            raise _Stalled from None

    async def preflight(self) -> None:
        """Answer a browser's preflight request."""
        allowed = auth.origin_allowed(self.request, self._settings)
        if not allowed:
            raise ApiError(403, "pages of this web site may not use the server.", code="origin_not_allowed")
        requested = self.request.headers.get("access-control-request-headers", "authorization, content-type")
        cors = {**_CORS, "access-control-allow-headers": _header_names(requested)}
        headers: list[Any] = [(name.encode(), value.encode()) for name, value in cors.items()]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    def _origin_headers(self) -> dict[str, str]:
        origin = self.request.headers.get("origin")
        if origin is None or not auth.origin_allowed(self.request, self._settings) or not urlsplit(origin).netloc:
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "retry-after, x-request-id",
            "vary": "Origin",
        }

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body may have at most {self._settings.max_message_bytes} bytes.")


def _without_slash(path: str) -> str:
    """Some clients end every path with a slash."""
    return path.rstrip("/") or "/"


def _header_names(requested: str) -> str:
    """The header names of a preflight, without what is no name and what is too long to repeat."""
    names = [name.strip() for name in requested.split(",")[:_MAX_HEADERS]]
    return ", ".join(name for name in names if is_token(name) and len(name) <= _MAX_HEADER_CHARACTERS)

"""The door: every HTTP request is checked, measured and counted here before any of its body is read."""

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
_FEWEST_REQUESTS = 32
_LEAST_BYTES_PER_S = 16_384  # of a body
_BODY_S = 20.0  # without a piece of it: who announces one has it at hand, and meanwhile takes a place of the others
_SPARE_PATHS = ("/health", "/metrics")
_CORS = {
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-max-age": "600",
}
_MOST_HEADERS, _LONGEST_HEADER = 50, 100  # openai's client in a browser sends a dozen


class GracefulShutdown:
    """What is going on, so that a server which is told to stop can let it end first."""

    def __init__(self) -> None:
        self.closing = False
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()

    @property
    def count(self) -> int:
        """Requests and conversations at work."""
        return self._count

    def close(self) -> None:
        """Let nothing new in."""
        self.closing = True
        self._closing.set()

    async def wait_closing(self) -> None:
        """Returns when `close` has been called: conversations should come to an end."""
        await self._closing.wait()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While inside, the server is not idle. Raises ApiError 503 when nothing new is let in."""
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
        """Wait until nothing goes on any more; says whether that came about in time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True


class AdmissionMiddleware:
    """ASGI middleware for HTTP: host, origin and key; the body's size; readers that stall; errors in one shape."""

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
        if scope["method"] == "HEAD":  # what a GET would say, but for the body
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
            fault, exchange.fault = exchange.fault, None
            await self._report(exchange, fault or error)
        if exchange.status:
            self._app.state.metrics.request(exchange.endpoint, exchange.status)

    async def _admit(self, exchange: _Exchange) -> None:
        request = exchange.request
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            # a browser asks beforehand, without a key
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
        if self._busy >= max(_FEWEST_REQUESTS, _REQUESTS_PER_SESSION * (stats.active_sessions + stats.slots_free)):
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
                api_error.headers["Connection"] = "close"  # the rest of the body is not wanted
            await api_error.response()(exchange.request.scope, exchange.receive, exchange.send)


class _Stalled(Exception):
    """The client has not taken what was sent for too long, or has not sent what it announced."""


class _Exchange:
    """One request and its answer, as far as the door has to do with it."""

    def __init__(
        self, request: Request, receive: Receive, send: Send, settings: ServerSettings, without_body: bool
    ) -> None:
        self.request, self._without_body = request, without_body
        self.status = 0
        self.body_read = not {"content-length", "transfer-encoding"} & set(request.headers)
        self._receive, self._send, self._settings = receive, send, settings
        self._began, self._received = time.monotonic(), 0
        self.fault: ApiError | None = None  # of the body

    @property
    def is_spare(self) -> bool:
        """Whether the connection is one of the few above the limit (server/access/connections.py)."""
        return bool(self.request.scope["state"].get("spare"))

    def abort(self) -> None:
        """End the connection with what is unsent, where the server that runs the application lets it."""
        abort = self.request.scope["state"].get("abort")
        if abort is not None:
            abort()

    @property
    def endpoint(self) -> str:
        """The route that answers; never what a client typed."""
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
        """The next piece of the body, counted, and waited for only so long; then word of the client's leaving."""
        if self.body_read:
            return await self._receive()
        try:
            with anyio.fail_after(self._patience()):
                message = await self._receive()
        except TimeoutError:
            self.fault = ApiError(408, "the rest of the request did not come.", code="request_timeout")
            raise self.fault from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.body_read = not message.get("more_body", False)
            if self._received > self._settings.max_message_bytes:
                self.body_read = False
                self.fault = self._too_large()
                raise self.fault
        return message

    def _patience(self) -> float:
        """Seconds to wait for more of the body: less than for a word, and in all no longer than a slow line needs."""
        pause = min(_BODY_S, self._settings.idle_seconds)
        due = self._began + pause + self._received / _LEAST_BYTES_PER_S
        return min(pause, due - time.monotonic())

    async def send(self, message: Message) -> None:
        """Pass an answer on; a client that does not take it is given up."""
        if self.fault is not None and not self.status:
            raise self.fault  # whatever the framework made of it
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
        """Answer a browser's question whether a page may ask."""
        allowed = auth.origin_allowed(self.request, self._settings)
        if not allowed:
            raise ApiError(403, "pages of this web site may not use the server.", code="origin_not_allowed")
        asked = self.request.headers.get("access-control-request-headers", "authorization, content-type")
        cors = {**_CORS, "access-control-allow-headers": _names_in(asked)}
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
        most = self._settings.max_message_bytes
        return ApiError(413, f"the body is larger than the {most} bytes that this server takes.")


def _without_slash(path: str) -> str:
    """Some clients end every address with a slash."""
    return path.rstrip("/") or "/"


def _names_in(asked: str) -> str:
    """The names of headers in a browser's list, without what is no name and what would be long to repeat."""
    names = [name.strip() for name in asked.split(",")[:_MOST_HEADERS]]
    return ", ".join(name for name in names if is_token(name) and len(name) <= _LONGEST_HEADER)

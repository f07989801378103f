"""Middlewares of Ray's proxies, so that the server behaves as without Ray.

A WebSocket whose replica died is closed with a reason, the proxy's own errors have the shape of ours, and a client that
reads nothing is disconnected.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import ServerSettings

SERVICE_RESTART = 1012
REASON = "replica_lost"
_RETRY_AFTER_S = b"2"
_RAY_PATHS = "/-/"  # of the proxy itself


class WebSocketCloseMiddleware:
    """ASGI middleware for a proxy: when a replica ends without closing an open WebSocket, close it.

    1012 means that the service restarts: a client may connect again at once, to another replica.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        is_open = False

        async def watched_send(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "websocket.accept" or (is_open and message["type"] != "websocket.close")
            await send(message)

        async def watched_receive() -> Message:
            nonlocal is_open
            message = await receive()
            is_open = is_open and message["type"] != "websocket.disconnect"
            return message

        try:
            await self._app(scope, watched_receive, watched_send)
        finally:
            if is_open:
                await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": REASON})


class JsonErrorsMiddleware:
    """ASGI middleware for a proxy: its own errors, in plain text, become errors of our shape.

    While an application starts or ends, Ray answers 404; here it is 503, which asks to retry. Our application sends
    errors in JSON only, so plain text is Ray's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith(_RAY_PATHS):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def replacing_send(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_error_of_ray(message):
                replaced = True
                await _send_error(scope, send, 503 if message["status"] == 404 else message["status"])
            elif not (replaced and message["type"].startswith("http.response.")):
                await send(message)

        await self._app(scope, receive, replacing_send)


class StalledClientsMiddleware:
    """ASGI middleware for a proxy: a client that reads nothing for 20 s is disconnected."""

    def __init__(self, app: ASGIApp, limit_s: float | None = None) -> None:
        self._app, self._limit_s = app, ServerSettings().stalled_seconds if limit_s is None else limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                with anyio.fail_after(self._limit_s):
                    await send(message)
            except TimeoutError:
                transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's
                if transport is not None:
                    transport.abort()  # an orderly close would wait for the client
                raise

        await self._app(scope, receive, send_in_time if scope["type"] in ("http", "websocket") else send)


def proxy_middlewares() -> list[Middleware]:
    """For Ray's proxies, which load this through an environment variable; the last is outermost."""
    return [
        Middleware(JsonErrorsMiddleware),
        Middleware(WebSocketCloseMiddleware),
        Middleware(StalledClientsMiddleware),
    ]


def _is_error_of_ray(message: Message) -> bool:
    headers = {name.lower(): value for name, value in message.get("headers", ())}
    return message["status"] >= 400 and headers.get(b"content-type", b"text/plain").startswith(b"text/plain")


async def _send_error(scope: Scope, send: Send, status: int) -> None:
    """An error in our shape, also in answer to a WebSocket's handshake."""
    message, code = {
        503: ("the server is starting or about to end; try again shortly.", "unavailable"),
        408: ("the request took too long.", "timeout"),
    }.get(status, ("something went wrong in the server.", "internal_error"))
    error: dict[str, Any] = {"message": message, "type": "server_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", _RETRY_AFTER_S))
    prefix = "websocket." if scope["type"] == "websocket" else ""
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else body
    await send({"type": f"{prefix}http.response.body", "body": body})

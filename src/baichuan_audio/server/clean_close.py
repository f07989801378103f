"""A WebSocket whose server process died is closed with a word, not broken off."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SERVICE_RESTART = 1012
REASON = "replica_lost"


class CleanClose:
    """ASGI middleware for a proxy: when what stands behind it ends without closing an open WebSocket, close it.

    1012 means that the service restarts: a client may connect again at once and finds another replica.
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


def proxy_middlewares() -> list[Middleware]:
    """What Ray's proxies put around themselves; they find it through an environment variable, and load only this."""
    return [Middleware(CleanClose)]

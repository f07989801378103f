"""Authentication: API keys, allowed origins, and the Host header."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ApiError
from ..settings import ServerSettings, is_loopback
from . import client_secrets

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.websockets import WebSocket

_OPEN_PATHS = ("/health", "/openapi.json")
KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers on a WebSocket: OpenAI's clients send the key as a subprotocol with this prefix."""


def check_http(request: Request) -> None:
    """Raises ApiError 403 for an origin or host that is not allowed, 401 without a valid key. The page needs no key."""
    settings: ServerSettings = request.app.state.settings
    _check_site(request, settings)
    path = request.scope["path"]  # `request.url` contains the Host header, which may hold another path
    needs_key = path.startswith("/v1/") or path == "/metrics"
    if needs_key and path not in _OPEN_PATHS and not has_key(request, settings):
        raise ApiError(
            401,
            "a valid API key is required: send it as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def check_websocket(websocket: WebSocket) -> dict[str, Any] | None:
    """The same for a WebSocket, which may also present a client secret -> the session's settings in it, if any.

    Raises ApiError 403 or 401.
    """
    settings: ServerSettings = websocket.app.state.settings
    _check_site(websocket, settings)
    key = presented_key(websocket)
    if settings.api_keys and has_key(websocket, settings):
        return None
    if key.startswith(client_secrets.PREFIX):
        session: dict[str, Any] | None = websocket.app.state.client_secrets.session_of(key)
        if session is None:
            raise ApiError(401, "the client secret is wrong or has expired; get a new one.", code="invalid_api_key")
        return session
    if settings.api_keys:
        raise ApiError(401, "a valid API key is required.", code="invalid_api_key")
    return None


def has_key(connection: HTTPConnection, settings: ServerSettings) -> bool:
    """Whether the connection presents one of the API keys, or none is required. Compares in constant time."""
    if not settings.api_keys:
        return True
    presented = presented_key(connection)
    digest = sha256(presented.encode()).digest()
    matches = [hmac.compare_digest(digest, sha256(key.encode()).digest()) for key in settings.api_keys]
    return any(matches)


def presented_key(connection: HTTPConnection) -> str:
    """The key in the Authorization header, or else among the WebSocket's subprotocols; "" for none."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    if connection.scope["type"] == "websocket":
        for protocol in connection.scope.get("subprotocols", ()):
            if protocol.startswith(KEY_PROTOCOL):
                return str(protocol.removeprefix(KEY_PROTOCOL))
    return ""


def origin_allowed(connection: HTTPConnection, settings: ServerSettings) -> bool:
    """Whether the Origin header is absent, this server's own, or an allowed one."""
    origin = connection.headers.get("origin")
    if origin is None or "*" in settings.allowed_origins or origin in settings.allowed_origins:
        return True
    try:
        site = urlsplit(origin)
    except ValueError:
        return False
    port = {"http": ":80", "https": ":443"}.get(site.scheme, "")
    host = connection.headers.get("host", "").lower().removesuffix(port)
    return bool(host) and host == site.netloc.lower().removesuffix(port)


def _check_site(connection: HTTPConnection, settings: ServerSettings) -> None:
    """Raises ApiError 403 for pages of other sites, and, where only this machine is served, for other host names:
    a site can have its name point here (DNS rebinding)."""
    if settings.local_only and not _host_allowed(connection.headers.get("host", ""), settings):
        raise ApiError(
            403,
            "this server answers to localhost only; start it with --allow-origin for another name.",
            code="host_not_allowed",
        )
    if not origin_allowed(connection, settings):
        raise ApiError(
            403,
            "pages of this web site may not use the server; allow it with --allow-origin.",
            code="origin_not_allowed",
        )


def _host_allowed(host: str, settings: ServerSettings) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    known = {urlsplit(origin).hostname for origin in settings.allowed_origins}
    return is_loopback(name) or "*" in settings.allowed_origins or name in known

"""POST /v1/realtime/client_secrets: a short-lived key for a page, so that the page needs no API key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ..adapters import choose_adapter
from ..errors import bad_request
from ..realtime.protocol.client_events import read_session
from ..realtime.protocol.server_events import new_id
from ..realtime.session import initial_config
from .chat_types import RequestModel
from .openapi import error_responses

router = APIRouter()


class ExpiresAfter(RequestModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class ClientSecretRequest(RequestModel):
    """How long sessions may begin with the key, and with which settings."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = None


class ClientSecret(BaseModel):
    """The key, when it expires (Unix time), and a session as it will begin."""

    value: str
    expires_at: int
    session: dict[str, Any]


@router.post("/v1/realtime/client_secrets", operation_id="create_client_secret", responses=error_responses())
async def create_client_secret(request: Request, body: ClientSecretRequest | None = None) -> ClientSecret:
    """Make a key for the Realtime WebSocket only; a page may use it until it expires."""
    state: Any = request.app.state
    body = body or ClientSecretRequest()
    session = body.session or {}
    config = initial_config(state.engine).updated(read_session(session, state.engine.voices))
    seconds = (body.expires_after or ExpiresAfter()).seconds
    try:
        value, expires_at = state.client_secrets.issue(session, seconds)
    except ValueError:
        message = "'session' is too long for a key; send the rest with session.update."
        raise bad_request(message, "session", "session_too_long") from None
    name = choose_adapter(state.engine, state.settings, session.get("model")) or state.settings.model_name
    shown = config.as_wire(new_id("sess"), name, expires_at)
    return ClientSecret(value=value, expires_at=expires_at, session=shown)

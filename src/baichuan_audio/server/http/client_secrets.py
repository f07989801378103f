"""POST /v1/realtime/client_secrets: a short-lived key for a page, so that the page needs no API key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ..errors import bad_request
from ..realtime.protocol.client_events import read_session
from ..realtime.protocol.server_events import new_id
from ..realtime.session import initial_config
from .chat_types import Input
from .openapi import error_responses

router = APIRouter()


class ExpiresAfter(Input):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class ClientSecretRequest(Input):
    """How long the key is good for sessions to begin, and the settings with which they do."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = None


class ClientSecret(BaseModel):
    """The key, when it expires (Unix time), and a session as it will begin."""

    value: str
    expires_at: int
    session: dict[str, Any]


@router.post("/v1/realtime/client_secrets", operation_id="create_client_secret", responses=error_responses())
async def create_client_secret(request: Request, asked: ClientSecretRequest | None = None) -> ClientSecret:
    """Make a key for the Realtime WebSocket alone, which a page may have; it may be used until it expires."""
    state: Any = request.app.state
    asked = asked or ClientSecretRequest()
    session = asked.session or {}
    config = initial_config(state.engine).updated(read_session(session, state.engine.voices))
    seconds = (asked.expires_after or ExpiresAfter()).seconds
    try:
        value, expires_at = state.client_secrets.issue(session, seconds)
    except ValueError:
        message = "'session' has more in it than a key can carry; send the rest with session.update."
        raise bad_request(message, "session", "session_too_long") from None
    shown = config.as_wire(new_id("sess"), state.settings.model_name, expires_at)
    return ClientSecret(value=value, expires_at=expires_at, session=shown)

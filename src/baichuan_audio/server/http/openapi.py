"""The OpenAPI document, made true: errors as they are sent, keys where they are asked for, streams beside objects."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from .streaming import EVENT_STREAM

_ERRORS = {
    400: "The request cannot be met as it is; the message says why.",
    401: "A valid API key is needed.",
    403: "This host name or web site may not use the server.",
    404: "There is no such thing.",
    408: "The rest of the body did not come.",
    413: "The body is larger than the server takes.",
    429: "All conversations are taken, or too many requests are made; come again after Retry-After seconds.",
    500: "Something went wrong in the server.",
    503: "The server is shutting down.",
    504: "The request took longer than one may.",
}
_WITH_WORK = tuple(_ERRORS)


class Fault(BaseModel):
    """What was wrong: a sentence, the kind of error, the field at fault, a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The one shape of all errors."""

    error: Fault


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route: these errors, or all that a request with a body may meet."""
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses or _WITH_WORK}


def other_content(description: str, *media_types: str) -> dict[str, Any]:
    """For a route's 200: what it may send besides, or instead of, JSON."""
    content: dict[str, Any] = {
        media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types
    }
    if EVENT_STREAM in content:  # one event
        content[EVENT_STREAM] = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}
    return {"description": description, "content": content}


def describe(app: FastAPI) -> None:
    """Mend the document that FastAPI writes: faults of form are 400 here, and the key is named."""
    write = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = write()
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            components = document.setdefault("components", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                components.get("schemas", {}).pop(unused, None)
            if app.state.settings.api_keys:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

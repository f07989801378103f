"""The OpenAPI document: errors as they are sent, keys where they are required, streams beside objects."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from .streaming import EVENT_STREAM

_ERRORS = {
    400: "The request is invalid; the message says why.",
    401: "A valid API key is required.",
    403: "This host name or web site may not use the server.",
    404: "Not found.",
    408: "The rest of the body was not received in time.",
    413: "The body is larger than the limit.",
    429: "No free slot, or too many requests; retry after Retry-After seconds.",
    500: "Something went wrong in the server.",
    503: "The server is shutting down.",
    504: "The request took longer than the limit.",
}
_ALL = tuple(_ERRORS)


class ErrorDetails(BaseModel):
    """An error: a sentence, its type, the field at fault, a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of all errors."""

    error: ErrorDetails


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route: these errors, or all that a request with a body may get."""
    return {status: {"model": ErrorBody, "description": _ERRORS[status]} for status in statuses or _ALL}


def other_content(description: str, *media_types: str) -> dict[str, Any]:
    """For a route's 200: media types besides, or instead of, JSON."""
    content: dict[str, Any] = {
        media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types
    }
    if EVENT_STREAM in content:  # one event
        content[EVENT_STREAM] = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}
    return {"description": description, "content": content}


def describe(app: FastAPI) -> None:
    """Adapt FastAPI's document: invalid requests are 400 here, and the API key is named."""
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

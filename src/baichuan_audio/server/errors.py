"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ..engine import EngineFull, EngineStopped
from ..errors import AudioError, BaichuanAudioError, NoSpeechError, PromptError, PromptTooLongError
from .validation import explain

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}
RETRY_AFTER_S = 2


class ApiError(Exception):
    """An error for the client, over HTTP or as a Realtime `error` event.

    message: one sentence. param: path of the field at fault. code: for programs. headers: of the HTTP response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status)
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    @property
    def type(self) -> str:
        """OpenAI's type of this error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        return error_body(self.message, self.type, self.code, self.param)

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """An invalid request, status 400."""
    return ApiError(400, message, code=code, param=param)


def error_body(message: str, type: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of all errors."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """An error of ours -> the client's. An unforeseen one becomes "internal_error", without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFull):
        return ApiError(429, str(error), code="server_full")
    if isinstance(error, EngineStopped):
        return ApiError(503, "the server is shutting down.", code="shutting_down")
    if isinstance(error, NoSpeechError):
        return bad_request(str(error), code="no_speech")
    if isinstance(error, AudioError):
        return bad_request(str(error), code="invalid_audio")
    if isinstance(error, PromptTooLongError):
        return bad_request(str(error), code="context_length_exceeded")
    if isinstance(error, PromptError):
        return bad_request(str(error), code="invalid_prompt")
    if isinstance(error, BaichuanAudioError):
        return ApiError(500, str(error), code="failed")
    return ApiError(500, "something went wrong in the server.", code="internal_error")


def add_error_handlers(app: FastAPI) -> None:
    """Give the framework's errors the same shape."""

    async def send_error(request: Request, error: Exception) -> JSONResponse:
        api_error = as_api_error(error)
        request.app.state.metrics.error(api_error.code or str(api_error.status))
        return api_error.response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405 and error.headers:
            error.headers = {**error.headers, "Allow": _allowed(error.headers.get("Allow", ""))}
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=error.headers)
        message = {
            400: f"the body cannot be read ({str(error.detail).rstrip('.')}).",
            404: f"there is nothing at {request.url.path}.",
            405: f"{request.method} is not allowed at {request.url.path}.",
        }.get(error.status_code, str(error.detail))
        return await send_error(request, ApiError(error.status_code, message, headers=error.headers))

    async def invalid_request(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = error.errors()
        if errors and errors[0]["type"] == "json_invalid":
            return await send_error(request, bad_request("the body is not valid JSON.", code="invalid_json"))
        return await send_error(request, bad_request(*explain(errors, error.body)))

    for kind in (ApiError, BaichuanAudioError):
        app.add_exception_handler(kind, send_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)


def _allowed(methods: str) -> str:
    """The methods of a route, with those that every such route has."""
    names = {name.strip() for name in methods.split(",")} | {"OPTIONS"}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))

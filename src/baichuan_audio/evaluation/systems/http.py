"""Requests to an OpenAI-compatible address."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ...errors import needed_library
from ..results import EvaluationError
from .base import ItemFailure

_TRIES = 5
_BUSY = {408, 409, 425, 429}


class HttpClient:
    """Requests to an OpenAI-compatible address; waits and tries again while the server is busy or away."""

    def __init__(self, base_url: str, key_variable: str, timeout_s: float, pause_s: float = 1.0) -> None:
        with needed_library("asking a server needs httpx: pip install 'baichuan-audio[eval]'."):
            import httpx
        if not base_url.startswith(("http://", "https://")):
            raise EvaluationError(f"'{base_url}' is no address; give one like http://127.0.0.1:8000/v1.")
        self.base_url, self._pause_s, self._transport_error = base_url.rstrip("/"), pause_s, httpx.TransportError
        key = os.environ.get(key_variable) or "none"
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s)

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that comes back. Raises ItemFailure for status 4xx, EvaluationError while nobody answers."""
        return self._body(self._answer(path, **request))

    def post_bytes(self, path: str, **request: Any) -> bytes:
        """The bytes that come back, such as those of a sound file; raises as `post` does."""
        answer = self._answer(path, **request)
        if answer.status_code >= 400:
            self._body(answer)
        return bytes(answer.content)

    def _answer(self, path: str, **request: Any) -> Any:
        """The answer, once the server is neither busy nor away."""
        trouble = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self._pause_s * 2 ** (attempt - 1))
            try:
                answer = self._client.post(self.base_url + path, **request)
            except self._transport_error as error:
                trouble = str(error) or type(error).__name__
                continue
            if answer.status_code in _BUSY or answer.status_code >= 500:
                trouble = f"status {answer.status_code}"
                continue
            return answer
        raise EvaluationError(f"{self.base_url}{path} does not answer ({trouble}); start it and run this again.")

    def _body(self, answer: Any) -> dict[str, Any]:
        if answer.status_code in (401, 403, 404):
            raise EvaluationError(
                f"{answer.url} refuses every request (status {answer.status_code}); check address, model and key."
            )
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code >= 400:
            detail = body.get("error") if isinstance(body, dict) else None
            message = detail.get("message") if isinstance(detail, dict) else None
            raise ItemFailure(f"status {answer.status_code}: {message or answer.text[:200]}")
        if not isinstance(body, dict):
            raise ItemFailure("the server's answer is no JSON object.")
        return body


def first_message(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a chat completion. Raises ItemFailure where there is none."""
    try:
        message = answer["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        message = None
    if not isinstance(message, dict):
        raise ItemFailure("the server's answer holds no message.")
    return message

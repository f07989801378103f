"""Responses that are generated while they are sent, and cancelled when the client disconnects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, TypeVar

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...engine import AudioDelta
from ..errors import ApiError, as_api_error

T = TypeVar("T")
EVENT_STREAM = "text/event-stream"
_PIECE_BYTES = 64 * 1024


class StreamedResponse(Response):
    """The pieces that `body` yields, sent as they come.

    An error before the first piece becomes an error response. Later it becomes an error event in a stream of events;
    elsewhere the connection is aborted, so that a part is not mistaken for the whole. When the client disconnects,
    `body` is cancelled.
    """

    def __init__(
        self, body: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        if media_type == EVENT_STREAM:
            self.headers.update({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._pieces = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(scope, receive, send))
        disconnecting = asyncio.ensure_future(_client_disconnects(receive))
        try:
            await asyncio.wait({sending, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnecting.cancel()
            while not sending.done():  # before Python 3.12 asyncio.wait_for may swallow a cancellation
                sending.cancel()
                await asyncio.wait({sending}, timeout=0.5)
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for piece in self._pieces:
                if not started:
                    await self._start(send)
                    started = True
                for start in range(0, len(piece), _PIECE_BYTES):  # each has its own time limit
                    body = piece[start : start + _PIECE_BYTES]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except Exception as error:
            if not started or self.media_type != EVENT_STREAM:
                raise
            await send({"type": "http.response.body", "body": self._error_event(scope, error), "more_body": True})
        finally:
            await self._pieces.aclose()
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    def _error_event(self, scope: Scope, error: Exception) -> bytes:
        """The error as an event; an unforeseen one is logged, too."""
        api_error = as_api_error(error)
        state = scope["app"].state
        state.metrics.error(api_error.code or str(api_error.status))
        if api_error.code == "internal_error":
            state.log.exception(error)
        return event(api_error.body())


class RequestTrace:
    """One request: its metrics, its line in the log, and its time limit.

    outcome: how it ended; "failed" unless set.
    """

    def __init__(self, state: Any, kind: str, request_id: str, response_id: str | None = None) -> None:
        self._state, self._kind, self._ids = state, kind, {"session_id": request_id, "response_id": response_id}
        self._started = time.perf_counter()
        self._first_audio: float | None = None
        self._audio_s = 0.0
        self._fields: dict[str, Any] = {}
        self._content: dict[str, Any] = {}
        self.outcome = "failed"

    def __enter__(self) -> RequestTrace:
        self._state.metrics.session_opened()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.outcome = "cancelled"
        elif isinstance(error, ApiError) and error.status < 500:
            self.outcome = "refused"
        seconds = time.perf_counter() - self._started
        if self._audio_s and self.outcome == "completed":
            self._state.metrics.rtf(seconds / self._audio_s)
        self._state.metrics.session_closed(self.outcome)
        self._state.log.write(
            self._kind,
            **self._ids,
            outcome=self.outcome,
            seconds=round(seconds, 3),
            first_audio_s=self._first_audio,
            audio_out_s=round(self._audio_s, 3),
            content=self._content,
            **self._fields,
        )

    def note(self, **fields: Any) -> None:
        """More fields for the log, without user content."""
        self._fields.update(fields)

    def note_content(self, **content: Any) -> None:
        """User content, which is logged where the settings say so."""
        self._content.update(content)

    def audio_in(self, seconds: float) -> None:
        """So much audio was received."""
        self._state.metrics.audio_seconds("in", seconds)

    def audio_out(self, delta: AudioDelta) -> None:
        """A piece of audio is sent."""
        seconds = delta.waveform.shape[-1] / delta.sample_rate
        if seconds and self._first_audio is None:
            self._first_audio = round(time.perf_counter() - self._started, 3)
            self._state.metrics.first_audio(self._first_audio)
        self._audio_s += seconds
        self._state.metrics.audio_seconds("out", seconds)

    async def limited(self, events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The same events, up to the request's time limit. Raises ApiError 504."""
        limit_s = self._state.settings.max_session_seconds
        iterator = events.__aiter__()
        while True:
            left_s = limit_s - (time.perf_counter() - self._started)
            try:
                with anyio.fail_after(left_s):
                    item = await iterator.__anext__()
            except StopAsyncIteration:
                return
            except TimeoutError:
                self.outcome = "timeout"
                raise ApiError(
                    504, f"the request took longer than the limit of {limit_s:g} s.", code="timeout"
                ) from None
            yield item


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event. data: becomes JSON; a string is sent as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


async def _client_disconnects(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

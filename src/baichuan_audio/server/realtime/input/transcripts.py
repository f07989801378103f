"""Transcripts of the user's turns, made beside the conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ....engine import AudioInput
from ....generation.transcription import join_texts
from ...errors import ApiError, as_api_error, bad_request
from ..protocol import server_events

if TYPE_CHECKING:
    from ..context import SessionContext

ROUNDING_S = 1e-3  # what rounding may leave of sums of seconds


class Transcriber:
    """Transcribes turns one after the other; a transcript may come before, in or after the response."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._waiting_s = 0.0
        self._one_at_a_time = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, item_id: str, segments: Sequence[AudioInput], seconds: float) -> None:
        """Transcribe the speech of an item of so many seconds, unless too much audio waits for it.

        segments: of speech; with none the transcript is empty.
        """
        if not segments:
            self._context.send(server_events.transcription_completed(item_id, 0, "", seconds))
            return
        if self._waiting_s > ROUNDING_S and self._waiting_s + seconds > self._context.longest_s:
            message = "The audio of earlier items is still being transcribed."
            self._report(item_id, bad_request(message, code="too_many_requests"))
            return
        self._waiting_s += seconds
        task = asyncio.create_task(self._transcribe(item_id, segments, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel what goes on: the session has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _transcribe(self, item_id: str, segments: Sequence[AudioInput], seconds: float) -> None:
        dialogue = self._context.dialogue
        try:
            async with self._one_at_a_time:
                texts = [await dialogue.transcript(audio.waveform, audio.sample_rate) for audio in segments]
                text = join_texts(texts)
        except Exception as error:
            self._report(item_id, error)
            return
        finally:
            self._waiting_s -= seconds
        try:
            item = self._context.conversation.get(item_id)
            item.parts = [replace(part, text=text) for part in item.parts]
        except ApiError:
            pass  # it has been deleted
        if text:
            self._context.send(server_events.transcription_delta(item_id, 0, text))
        self._context.send(server_events.transcription_completed(item_id, 0, text, seconds))

    def _report(self, item_id: str, error: Exception) -> None:
        api_error = as_api_error(error)
        code = api_error.code or "transcription_failed"
        self._context.metrics.error(code)
        self._context.send(server_events.transcription_failed(item_id, 0, api_error.message, code))
        if code == "internal_error":
            self._context.log.exception(error, session_id=self._context.session_id)

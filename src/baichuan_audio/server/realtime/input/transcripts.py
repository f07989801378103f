"""What the user said, written down beside the conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ....engine import AudioInput, Dialogue
from ....generation.transcription import join_texts
from ..conversation.items import NEXT_TO_NOTHING_S
from ..conversation.response import SessionContext
from ..protocol import events
from ..protocol.fields import WireError, as_wire_error


class Transcriber:
    """Writes turns down one after the other; a transcript may come before, in or after the response."""

    def __init__(self, context: SessionContext, dialogue: Dialogue, longest_s: float) -> None:
        self._context, self._dialogue, self._longest_s = context, dialogue, longest_s
        self._waiting_s = 0.0
        self._one_at_a_time = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, item_id: str, segments: Sequence[AudioInput], seconds: float) -> None:
        """Have the speech of an item of so many seconds written down, unless there is too much that waits for it.

        segments: of speech; with none there is nothing to write.
        """
        if not segments:
            self._context.send_queue.put(events.transcription_completed(item_id, 0, "", seconds))
            return
        if self._waiting_s > NEXT_TO_NOTHING_S and self._waiting_s + seconds > self._longest_s:
            message = "The sound of earlier items is still being written down."
            self._failed(item_id, WireError(message, "too_many_requests"))
            return
        self._waiting_s += seconds
        task = asyncio.create_task(self._write(item_id, segments, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Nobody wants to know any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, item_id: str, segments: Sequence[AudioInput], seconds: float) -> None:
        try:
            async with self._one_at_a_time:
                texts = [await self._dialogue.transcript(each.waveform, each.sample_rate) for each in segments]
                text = join_texts(texts)
        except Exception as error:
            self._failed(item_id, error)
            return
        finally:
            self._waiting_s -= seconds
        try:
            item = self._context.conversation.get(item_id)
            item.parts = [replace(part, text=text) for part in item.parts]
        except WireError:
            pass  # it has been deleted
        if text:
            self._context.send_queue.put(events.transcription_delta(item_id, 0, text))
        self._context.send_queue.put(events.transcription_completed(item_id, 0, text, seconds))

    def _failed(self, item_id: str, error: Exception) -> None:
        told = as_wire_error(error, "transcription_failed")
        self._context.metrics.error(told.code)
        self._context.send_queue.put(events.transcription_failed(item_id, 0, told.message, told.code))
        if told.code == "internal_error":
            self._context.log.exception(error, session_id=self._context.session_id)

"""What clients do with items: seen by them at once, and by the engine in its turn."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ....audio.voice_activity import SAMPLE_RATE
from ....engine import AudioInput
from ....errors import BaichuanAudioError, PromptError
from ...errors import bad_request
from ...validation import MAX_TEXT_CHARACTERS
from ..input.transcripts import ROUNDING_S, Transcriber
from ..protocol import client_events, server_events
from ..protocol.session_config import RealtimeSessionCreateRequest
from .item_list import Segments, Sound, StoredItem, StoredPart, stored_item
from .response import RealtimeResponse

if TYPE_CHECKING:
    from ..context import SessionContext

_FRAME_MS = 20  # a client's clock that stops with the audio may miss the last frame of it


class ItemHandler:
    """Adds, retrieves, truncates and deletes items."""

    def __init__(self, context: SessionContext, transcriber: Transcriber, config: RealtimeSessionCreateRequest) -> None:
        self._context, self._transcriber = context, transcriber
        self._waiting_s = 0.0  # of audio in items that the engine has not read yet
        self.configure(config)

    def configure(self, config: RealtimeSessionCreateRequest) -> None:
        """Settings that apply from now on."""
        self._config = config.audio.input

    def commit(self, item_id: str, sound: Sound, segments: Segments, spoken: bool = True) -> None:
        """The user's turn becomes an item. segments: of speech, all that the model reads. spoken: False for silence
        that the model shall answer."""
        part = StoredPart("input_audio", None if segments and spoken else "", sound, segments)
        item, length_s = StoredItem(item_id, "user", [part]), len(sound) / SAMPLE_RATE
        content = item.for_engine()
        self.add(item, None, content, committed=True)
        self._context.metrics.audio_seconds("in", length_s)
        if self._config.transcription is None:
            return
        # a single segment is the same object as the message, so that the engine need not encode it twice
        audio = [piece for piece in content if isinstance(piece, AudioInput)]
        if len(segments) > 1:
            audio = [AudioInput(piece, SAMPLE_RATE, vad=False) for piece in part.speech().pieces()]
        self._transcriber.start(item_id, audio if spoken else [], length_s)

    async def create(self, event: client_events.ConversationItemCreateEvent) -> None:
        """Add a client's item."""
        item = await self.read(event.item)
        self.add(item, event.previous_item_id, item.for_engine())

    async def read(self, item: client_events.ConversationItem) -> StoredItem:
        """A client's message, converted in a thread, since it may hold minutes of audio."""
        format, longest_s = self._config.format.type, self._context.longest_s
        item_id = item.id or server_events.new_id("item")
        stored = await asyncio.to_thread(stored_item, item_id, item, format, longest_s)
        if stored.role == "user":
            stored.parts = [await self._with_segments(part) for part in stored.parts]
        return stored

    async def _with_segments(self, part: StoredPart) -> StoredPart:
        if part.sound is None:
            return part
        speech = await self._context.engine.find_speech(AudioInput(part.speech().waveform, SAMPLE_RATE))
        return replace(part, segments=speech.segments, text=part.text if speech.segments else "")

    async def retrieve(self, item_id: str) -> None:
        """Send an item, audio included."""
        item = self._context.conversation.get(item_id)
        await self._context.send_queue.room()  # a client that does not read its answers gets no more
        wire_item = await asyncio.to_thread(item.as_wire, self._config.format.type)
        self._context.send(server_events.item_retrieved(wire_item))

    def check_total(self, items: list[StoredItem]) -> None:
        """Raises ApiError when the input of one response is too long in all."""
        longest_s = self._context.longest_s
        if sum(item.sound_seconds for item in items) > longest_s:
            raise bad_request(f"The audio is longer than {longest_s:g} s.", "response.input", "audio_too_long")
        if sum(len(item.text) for item in items) > MAX_TEXT_CHARACTERS:
            message = f"The input has more than {MAX_TEXT_CHARACTERS} characters."
            raise bad_request(message, "response.input", "input_too_long")

    def add(
        self, item: StoredItem, after: str | None, content: list[str | AudioInput], *, committed: bool = False
    ) -> None:
        """Add to the conversation at once and, unless nobody speaks in it, to the engine's in its turn.

        after: as `previous_item_id`. content: a user's, for the engine. committed: from the input audio buffer.
        """
        in_the_middle = after is not None and after != (self._context.conversation.last_id or "root")
        if in_the_middle and item.role != "user":
            message = "Only a user's message can be put before others."
            raise bad_request(message, "previous_item_id", "unsupported_position")
        previous_id = after if in_the_middle else None
        engine_previous_id = previous_id
        if previous_id not in (None, "root"):
            engine_previous_id = self._context.conversation.last_spoken(previous_id)
        length_s = item.sound_seconds
        if self._waiting_s > ROUNDING_S and self._waiting_s + length_s > self._context.longest_s:
            raise bad_request("The audio of earlier items is still being read; wait.", "item", "too_many_requests")

        async def add() -> None:
            self._waiting_s -= length_s
            try:
                if item.role == "user":
                    await self._context.dialogue.add_user(content, item_id=item.id, after=engine_previous_id)
                elif item.role == "assistant":
                    await self._context.dialogue.add_assistant(item.text, item_id=item.id)
                else:
                    await self._context.dialogue.add_system(item.text, item_id=item.id)
            except BaichuanAudioError:
                self._context.conversation.remove(item.id)
                self._context.send(server_events.item_deleted(item.id))
                raise

        self._context.tasks.check_room()
        self._context.conversation.insert(item, previous_id)
        if not item.silent:
            self._waiting_s += length_s
            self._context.tasks.add(add)
        previous = self._context.conversation.previous_id(item.id)
        if committed:
            self._context.send(server_events.audio_committed(item.id, previous))
        self._context.send(server_events.item_added(item.as_wire(), previous))
        self._context.send(server_events.item_done(item.as_wire(), previous))

    def delete(self, item_id: str) -> None:
        """Delete an item."""
        item = self._context.conversation.get(item_id)
        if item.status == "in_progress":
            raise bad_request("The item is being generated; cancel its response first.", "item_id", "item_in_progress")

        async def delete() -> None:
            try:
                await self._context.dialogue.delete(item_id)
            except PromptError:
                if item.played_samples != 0:  # what was not played is deleted already
                    raise

        self._context.tasks.check_room()
        if not item.silent:
            self._context.tasks.add(delete)
        self._context.conversation.remove(item_id)
        self._context.send(server_events.item_deleted(item_id))

    def truncate(self, event: client_events.ConversationItemTruncateEvent) -> None:
        """Cut an item to what its client has played of it."""
        item = self._context.conversation.get(event.item_id)
        if item.role != "assistant" or item.generated_samples == 0:
            raise bad_request("Only spoken messages of the assistant can be truncated.", "item_id", "invalid_value")
        length_ms = -(
            -item.generated_samples * 1000 // item.sample_rate
        )  # a client may round up to a whole millisecond
        if event.audio_end_ms > length_ms:
            message = f"The item has {length_ms} ms of audio, fewer than {event.audio_end_ms}."
            raise bad_request(message, "audio_end_ms", "invalid_value")
        played = min(item.generated_samples, event.audio_end_ms * item.sample_rate // 1000)
        self._context.tasks.check_room()
        self._context.tasks.add(lambda: self._cut(item, played, event.audio_end_ms))

    def truncate_later(self, response: RealtimeResponse) -> None:
        """Cut an interrupted response to what was played of it, as if the client had asked for it."""

        async def cut() -> None:
            if response.item.id in self._context.conversation:
                await self._cut(response.item, response.playback.sent)

        if response.settings.speak and response.settings.remember:
            self._context.tasks.add(cut)

    async def _cut(self, item: StoredItem, played: int, client_ms: int | None = None) -> None:
        """Cut the item to what was played of it: the least that anybody states.

        played: samples. client_ms: the same as the client states it, for the answer.
        """
        rest_ms = (item.generated_samples - played) * 1000 / item.sample_rate
        played_to_the_end = item.status == "completed" and rest_ms <= _FRAME_MS  # then there is nothing to cut
        known = item.generated_samples if item.played_samples is None else item.played_samples
        if not played_to_the_end and (item.played_samples is None or played < item.played_samples):
            item.played_samples = known = played
            try:
                text = await self._context.dialogue.truncate(item.id, played / item.sample_rate * item.speed)
            except PromptError:  # it has no audio
                text, item.played_samples, known = "", 0, 0
                with suppress(PromptError):
                    await self._context.dialogue.delete(item.id)
            item.parts = [replace(part, text=text) for part in item.parts]
        if client_ms is None or known < played:
            client_ms = round(min(played, known) * 1000 / item.sample_rate)
        self._context.send(server_events.item_truncated(item.id, client_ms))

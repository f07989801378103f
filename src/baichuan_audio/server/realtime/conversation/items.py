"""The items of a conversation: what clients see of them at once, what the engine makes of them in its turn."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from ....audio.voice_activity import SAMPLE_RATE
from ....engine import AudioInput, Dialogue, Engine
from ....errors import BaichuanAudioError, PromptError
from ..protocol import events, wire
from ..protocol.config import SessionConfig
from ..protocol.fields import WireError
from ..task_queue import TaskQueue
from .item_list import ConversationItem, Part, new_item
from .response import Response, SessionContext

_FRAME_MS = 20  # a clock that stops with the sound may miss the last frame of it
NEXT_TO_NOTHING_S = 1e-3  # what rounding may leave of sums of seconds


class ItemStore:
    """Adds, shows, cuts and deletes items; what that asks of the engine, the worker does. longest_s: of one item's
    sound."""

    def __init__(
        self,
        context: SessionContext,
        engine: Engine,
        dialogue: Dialogue,
        worker: TaskQueue,
        config: SessionConfig,
        longest_s: float,
    ) -> None:
        self._context, self._engine, self._dialogue, self._tasks = context, engine, dialogue, worker
        self._longest_s = longest_s
        self._waiting_s = 0.0  # of sound in items that the worker has not come to
        self.configure(config)

    def configure(self, config: SessionConfig) -> None:
        """Settings that count from now on."""
        self._format = config.input_format

    async def create(self, event: wire.ItemCreate) -> None:
        """As a client asks for it."""
        item = await self.read(event.item)
        self.add(item, event.previous_item_id, item.for_engine())

    async def read(self, new: wire.NewItem) -> ConversationItem:
        """A client's message; a thread of its own does the work, since there may be minutes of sound in it."""
        item_id = new.id or events.new_id("item")
        item = await asyncio.to_thread(new_item, item_id, new, self._format, self._longest_s)
        if item.role == "user":
            item.parts = [await self._with_segments(part) for part in item.parts]
        return item

    async def _with_segments(self, part: Part) -> Part:
        if part.sound is None:
            return part
        speech = await self._engine.find_speech(AudioInput(part.speech().waveform, SAMPLE_RATE))
        return replace(part, segments=speech.segments, text=part.text if speech.segments else "")

    async def retrieve(self, item_id: str) -> None:
        """Show one, sound included."""
        item = self._context.conversation.get(item_id)
        await self._context.send_queue.room()  # who does not take what was asked for may not ask for more
        wire_item = await asyncio.to_thread(item.as_wire, self._format)
        self._context.send_queue.put(events.item_retrieved(wire_item))

    def check_all(self, items: list[ConversationItem]) -> None:
        """Raises WireError when there is more in them together than one response may be asked about."""
        if sum(item.sound_seconds for item in items) > self._longest_s:
            raise WireError(f"The audio is longer than {self._longest_s:g} s.", "audio_too_long", "response.input")
        if sum(len(item.text) for item in items) > wire.LONGEST_MESSAGE:
            message = f"The input has more than {wire.LONGEST_MESSAGE} characters."
            raise WireError(message, "input_too_long", "response.input")

    def add(
        self, item: ConversationItem, after: str | None, content: list[str | AudioInput], *, committed: bool = False
    ) -> None:
        """Into the conversation, here at once and, unless nobody speaks in it, in the engine in its turn.

        content: a user's, for the engine. committed: from the input audio buffer.
        """
        in_the_middle = after is not None and after != (self._context.conversation.last_id or "root")
        if in_the_middle and item.role != "user":
            message = "Only a user's message can be put before others."
            raise WireError(message, "unsupported_position", "previous_item_id")
        place = after if in_the_middle else None
        engine_place = self._context.conversation.last_spoken(place) if place not in (None, "root") else place
        length_s = item.sound_seconds
        if self._waiting_s > NEXT_TO_NOTHING_S and self._waiting_s + length_s > self._longest_s:
            raise WireError("The sound of earlier items is still being read; wait.", "too_many_requests", "item")

        async def add() -> None:
            self._waiting_s -= length_s
            try:
                if item.role == "user":
                    await self._dialogue.add_user(content, item_id=item.id, after=engine_place)
                elif item.role == "assistant":
                    await self._dialogue.add_assistant(item.text, item_id=item.id)
                else:
                    await self._dialogue.add_system(item.text, item_id=item.id)
            except BaichuanAudioError:
                self._context.conversation.remove(item.id)
                self._context.send_queue.put(events.item_deleted(item.id))
                raise

        self._tasks.check_room()
        self._context.conversation.insert(item, place)
        if not item.silent:
            self._waiting_s += length_s
            self._tasks.add(add)
        previous = self._context.conversation.previous_id(item.id)
        if committed:
            self._context.send_queue.put(events.audio_committed(item.id, previous))
        self._context.send_queue.put(events.item_added(item.as_wire(), previous))
        self._context.send_queue.put(events.item_done(item.as_wire(), previous))

    def delete(self, item_id: str) -> None:
        """Take one out."""
        item = self._context.conversation.get(item_id)
        if item.status == "in_progress":
            raise WireError("The item is being written; cancel its response first.", "item_in_progress", "item_id")

        async def delete() -> None:
            try:
                await self._dialogue.delete(item_id)
            except PromptError:
                if item.heard_samples != 0:  # what nobody heard is not there any more
                    raise

        self._tasks.check_room()
        if not item.silent:
            self._tasks.add(delete)
        self._context.conversation.remove(item_id)
        self._context.send_queue.put(events.item_deleted(item_id))

    def truncate(self, event: wire.ItemTruncate) -> None:
        """Let one hold what a client says was heard of it."""
        item = self._context.conversation.get(event.item_id)
        if item.role != "assistant" or item.made_samples == 0:
            raise WireError("Only what the assistant has spoken can be truncated.", "invalid_value", "item_id")
        made_ms = -(-item.made_samples * 1000 // item.sample_rate)  # a client may round up to a whole millisecond
        if event.audio_end_ms > made_ms:
            message = f"The item has {made_ms} ms of audio, fewer than {event.audio_end_ms}."
            raise WireError(message, "invalid_value", "audio_end_ms")
        heard = min(item.made_samples, event.audio_end_ms * item.sample_rate // 1000)
        self._tasks.check_room()
        self._tasks.add(lambda: self._cut(item, heard, event.audio_end_ms))

    def cut_later(self, response: Response) -> None:
        """What was not heard of an interrupted response leaves the conversation, as if the client had asked for it."""

        async def cut() -> None:
            if response.item.id in self._context.conversation:
                await self._cut(response.item, response.playback.sent)

        if response.settings.speak and response.settings.remember:
            self._tasks.add(cut)

    async def _cut(self, item: ConversationItem, heard: int, named_ms: int | None = None) -> None:
        """Let the item hold what was heard of it: the least that anybody said.

        heard: samples. named_ms: the same as the client named it, for the answer.
        """
        unheard_ms = (item.made_samples - heard) * 1000 / item.sample_rate
        heard_to_the_end = item.status == "completed" and unheard_ms <= _FRAME_MS  # then there is nothing to cut
        known = item.made_samples if item.heard_samples is None else item.heard_samples
        if not heard_to_the_end and (item.heard_samples is None or heard < item.heard_samples):
            item.heard_samples = known = heard
            try:
                text = await self._dialogue.truncate(item.id, heard / item.sample_rate * item.speed)
            except PromptError:  # it never came to a sound
                text, item.heard_samples, known = "", 0, 0
                with suppress(PromptError):
                    await self._dialogue.delete(item.id)
            item.parts = [replace(part, text=text) for part in item.parts]
        if named_ms is None or known < heard:
            named_ms = round(min(heard, known) * 1000 / item.sample_rate)
        self._context.send_queue.put(events.item_truncated(item.id, named_ms))

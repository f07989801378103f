"""One response: runs the engine's reply and sends its events in the protocol's order."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....engine import AudioDelta, Dialogue, ReplyDone, ReplyStream, TextDelta, Usage
from ....errors import BaichuanAudioError
from ....generation.runaway import RUNAWAYS
from ...errors import as_api_error
from ..input.codec import OutputEncoder, in_pieces, num_samples
from ..protocol import server_events
from ..protocol.session_config import RealtimeAudioFormats
from .item_list import StoredItem, StoredPart
from .playback import Playback

if TYPE_CHECKING:
    from ..context import SessionContext

_MAX_DELTA_S = 0.5


@dataclass(frozen=True)
class ResponseSettings:
    """The settings of one response, those of the session included.

    speak: audio and transcript, else text. max_output_tokens: None for no limit. remember: whether the response becomes
    part of the conversation.
    """

    speak: bool
    voice: str
    output_format: RealtimeAudioFormats
    speed: float
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    remember: bool = True


@dataclass
class RealtimeResponse:
    """One response, from `response.created` to `response.done`.

    begun_at: when the user's turn ended, on the monotonic clock. answers: id of the item it depends on, if any. after:
    playback that comes before this one's.
    """

    context: SessionContext
    settings: ResponseSettings
    begun_at: float
    answers: str | None = None
    id: str = field(default_factory=lambda: server_events.new_id("resp"))
    item: StoredItem = field(init=False)
    playback: Playback = field(init=False)
    after: Playback | None = None
    cancel_reason: str | None = None
    finished_at: float = 0.0
    _reply: ReplyStream | None = None
    _opened: bool = False
    _text: str = ""
    _cancelled_at: float = 0.0
    _generation_s: float = 0.0
    _first_audio: bool = False

    def __post_init__(self) -> None:
        settings, rate = self.settings, self.settings.output_format.rate
        self.playback = Playback(rate)
        self.item = StoredItem(
            server_events.new_id("item"), "assistant", status="in_progress", speed=settings.speed, sample_rate=rate
        )
        self._encoder = OutputEncoder(settings.output_format.type, self.context.engine.sample_rate, settings.speed)
        self._events = server_events.OutputEvents(self.id, self.item.id, settings.speak)

    def announce(self) -> None:
        """`response.created`; the message is added to the conversation. Raises ApiError when that is full."""
        if self.settings.remember:
            self.context.conversation.insert(self.item)
        self.context.send(server_events.response_created(self._as_wire("in_progress")))

    @property
    def finished(self) -> bool:
        """Whether `response.done` has been queued."""
        return self.finished_at > 0

    @property
    def active(self) -> bool:
        """Whether it is neither cancelled nor finished."""
        return not self.finished and self.cancel_reason is None

    def played_at(self, now: float) -> float | None:
        """When it had been generated and played to its end; None before."""
        if not self.finished or self.playback.remaining(now) > 0:
            return None
        return max(self.finished_at, self.playback.ends_at)

    def cancel(self, reason: str) -> None:
        """Stop generating, and drop what has not been sent. reason: turn_detected or client_cancelled."""
        if not self.active:
            return
        self.cancel_reason, self._cancelled_at = reason, time.monotonic()
        self.context.send_queue.drop(self.id)
        if self._reply is not None:
            self._reply.cancel(reason)

    async def run(self, dialogue: Dialogue) -> None:
        """Send all events up to `response.done`, whatever happens in between."""
        if self.cancel_reason is not None:
            self._finish(ReplyDone("cancelled", self.cancel_reason, "", Usage()))
            return
        try:
            done = await self._relay(dialogue)
        except Exception as error:
            self.fail(error)
            return
        self._finish(done)

    def fail(self, error: Exception) -> None:
        """It cannot begin, or cannot go on; an unforeseen error is logged, too."""
        if as_api_error(error).code == "internal_error":
            self.context.log.exception(error, session_id=self.context.session_id, response_id=self.id)
        self._finish(ReplyDone("failed", None, "", Usage()), error)

    async def _relay(self, dialogue: Dialogue) -> ReplyDone:
        """Send the reply as it comes, up to its end or a cancel."""
        settings = self.settings
        self._reply = dialogue.reply(
            speak=settings.speak,
            max_tokens=settings.max_output_tokens,
            instructions=settings.instructions,
            item_id=self.item.id,
            remember=settings.remember,
        )
        waiting_since = time.monotonic()
        async for event in self._reply:
            self._generation_s += time.monotonic() - waiting_since
            if isinstance(event, ReplyDone):
                return event
            if self.cancel_reason is None:
                self._open()
                if isinstance(event, TextDelta):
                    self._text += event.text
                    self.context.send(self._events.text_delta(event.text))
                elif isinstance(event, AudioDelta):
                    self._put_audio(self._encoder.push(event.waveform.numpy()))
                    await self.context.send_queue.room()
            waiting_since = time.monotonic()
        raise BaichuanAudioError("the reply ended without its last event.")

    def _open(self) -> None:
        """Send the events that open the message and its one part."""
        if self._opened:
            return
        self._opened = True
        wire = self.item.as_wire()
        self.context.send(server_events.output_item_added(self.id, wire))
        if self.settings.remember:
            self.context.send(server_events.item_added(wire, self._previous_id()))
        self.context.send(self._events.part_added())

    def _put_audio(self, data: bytes) -> None:
        """Queue audio in pieces of half a second, so that an interruption can drop most of it."""
        format = self.settings.output_format.type
        for piece in in_pieces(data, format, _MAX_DELTA_S):
            samples = num_samples(len(piece), format)
            self.item.generated_samples += samples
            event = self._events.audio_delta(base64.b64encode(piece).decode())
            self.context.send_queue.put(event, self.id, lambda samples=samples: self._sent(samples))  # type: ignore[misc]

    def _sent(self, samples: int) -> None:
        if self.playback.stopped:
            return  # it was being sent when playback stopped
        now = time.monotonic()
        if not self._first_audio:
            self._first_audio = True
            self.context.metrics.first_audio(now - self.begun_at)
            if self.after is not None:
                self.playback.wait(self.after)
        self.playback.add(samples, now)
        self.context.metrics.audio_seconds("out", samples / self.item.sample_rate)

    def _finish(self, done: ReplyDone, error: Exception | None = None) -> None:
        self.finished_at = time.monotonic()
        status = self._status(done)
        if status == "completed":
            self._open()
        if status in ("completed", "incomplete") and self._opened and self.settings.speak:
            self._put_audio(self._encoder.flush())
        if self._opened:
            self._close_item(status)
        elif self.settings.remember and self.item.id in self.context.conversation:
            self.context.conversation.remove(self.item.id)
        details = self._details(status, done, error)
        wire = self._as_wire(status, details, done.usage)
        self.context.send_queue.put(server_events.response_done(wire), on_sent=self._observe)
        if self.cancel_reason == "turn_detected":
            self.context.metrics.barge_in(time.monotonic() - self._cancelled_at)
        self.context.log.write(
            "response",
            session_id=self.context.session_id,
            response_id=self.id,
            status=status,
            reason=str(as_api_error(error).code) if error else self.cancel_reason,
            seconds=round(self.item.generated_samples / self.item.sample_rate, 2),
            content={"text": self._text, "reason": str(error or done.reason or "")},
        )

    def _status(self, done: ReplyDone) -> str:
        """A reply that was cancelled by anybody else than the client has failed, for the client."""
        if self.cancel_reason is not None:
            return "cancelled"
        return "failed" if done.status == "cancelled" else done.status

    def _close_item(self, status: str) -> None:
        speak = self.settings.speak
        self.item.status = "completed" if status == "completed" else "incomplete"
        self.item.parts = [StoredPart("output_audio" if speak else "output_text", self._text)]
        wire = self.item.as_wire()
        if speak:
            self.context.send(self._events.audio_done())
        self.context.send(self._events.text_done(self._text))
        self.context.send(self._events.part_done(self._text))
        self.context.send(server_events.output_item_done(self.id, wire))
        if self.settings.remember and self.item.id in self.context.conversation:
            self.context.send(server_events.item_done(wire, self._previous_id()))

    def _details(self, status: str, done: ReplyDone, error: Exception | None) -> dict[str, Any] | None:
        """`status_details`; the protocol has no reason for a runaway reply, so its `error` names it."""
        if status == "cancelled":
            return {"type": "cancelled", "reason": self.cancel_reason}
        if status == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
            if done.reason in RUNAWAYS:
                return details | {"error": {"type": "runaway_reply", "code": done.reason}}
            return details
        if status != "failed":
            return None
        error = error or done.error
        if error is not None:
            api_error = as_api_error(error)
            kind, code, message = api_error.type, api_error.code, api_error.message
        else:
            kind, code, message = "server_error", "response_failed", done.reason or "the reply failed."
        self.context.metrics.error(code or "response_failed")
        return {"type": "failed", "error": {"type": kind, "code": code, "message": message}}

    def _as_wire(
        self, status: str, details: dict[str, Any] | None = None, usage: Usage | None = None
    ) -> dict[str, Any]:
        settings = self.settings
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [self.item.as_wire()] if self._opened and status != "in_progress" else [],
            "conversation_id": self.context.conversation_id if settings.remember else None,
            "output_modalities": ["audio" if settings.speak else "text"],
            "max_output_tokens": settings.max_output_tokens or "inf",
            "audio": {"output": {"format": settings.output_format.model_dump(), "voice": settings.voice}},
            "usage": server_events.usage(usage) if usage is not None else None,
            "metadata": settings.metadata,
        }

    def _previous_id(self) -> str | None:
        return self.context.conversation.previous_id(self.item.id) if self.settings.remember else None

    def _observe(self) -> None:
        """Metrics, once all of it has been sent."""
        if self.playback.sent > 0:
            self.context.metrics.underrun(self.playback.underrun)
            if self.cancel_reason is None:
                self.context.metrics.rtf(self._generation_s / self.playback.sent_seconds)

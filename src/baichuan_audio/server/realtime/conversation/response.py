"""One response: runs the engine's reply and tells the client about it in the protocol's order."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import Any

from ....engine import AudioDelta, Dialogue, ReplyDone, ReplyStream, TextDelta, Usage
from ....errors import BaichuanAudioError
from ....generation.runaway import RUNAWAYS
from ...errors import as_api_error
from ...monitoring.logging import EventLog
from ...monitoring.metrics import Metrics
from ..input.codec import RATES, AudioFormat, OutputEncoder, in_pieces, num_samples
from ..protocol import events
from ..protocol.config import format_as_wire
from ..send_queue import SendQueue
from .item_list import ConversationItem, ItemList, Part
from .playback import Playback

_LONGEST_DELTA_S = 0.5


@dataclass(frozen=True)
class ResponseSettings:
    """What counts for one response, settings of the session included."""

    speak: bool
    voice: str
    output_format: AudioFormat
    speed: float
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    remember: bool = True


@dataclass(frozen=True)
class SessionContext:
    """What a session shares with its responses."""

    session_id: str
    conversation_id: str
    conversation: ItemList
    send_queue: SendQueue
    metrics: Metrics
    log: EventLog
    sample_rate: int


@dataclass
class Response:
    """begun_at: when the user's turn ended, on the monotonic clock. answers: the item it depends on, if one. after:
    what the listener hears first."""

    context: SessionContext
    settings: ResponseSettings
    begun_at: float
    answers: str | None = None
    id: str = field(default_factory=lambda: events.new_id("resp"))
    item: ConversationItem = field(init=False)
    playback: Playback = field(init=False)
    after: Playback | None = None
    cancel_reason: str | None = None
    finished_at: float = 0.0
    _reply: ReplyStream | None = None
    _opened: bool = False
    _text: str = ""
    _cancelled_at: float = 0.0
    _making_seconds: float = 0.0
    _first_audio: bool = False

    def __post_init__(self) -> None:
        settings, rate = self.settings, RATES[self.settings.output_format]
        self.playback = Playback(rate)
        self.item = ConversationItem(
            events.new_id("item"), "assistant", status="in_progress", speed=settings.speed, sample_rate=rate
        )
        self._encoder = OutputEncoder(settings.output_format, self.context.sample_rate, settings.speed)
        self._events = events.OutputEvents(self.id, self.item.id, settings.speak)

    def announce(self) -> None:
        """`response.created`; the message takes its place in the conversation. Raises WireError when that is full."""
        if self.settings.remember:
            self.context.conversation.insert(self.item)
        self.context.send_queue.put(events.response_created(self._as_wire("in_progress")))

    @property
    def finished(self) -> bool:
        """Whether `response.done` has been told."""
        return self.finished_at > 0

    @property
    def active(self) -> bool:
        """Whether it is wanted and not yet finished."""
        return not self.finished and self.cancel_reason is None

    def heard_at(self, now: float) -> float | None:
        """When it had been made and heard to its end; None before."""
        if not self.finished or self.playback.remaining(now) > 0:
            return None
        return max(self.finished_at, self.playback.ends_at)

    def cancel(self, reason: str) -> None:
        """Stop making it, and take back what has not been sent. reason: turn_detected or client_cancelled."""
        if not self.active:
            return
        self.cancel_reason, self._cancelled_at = reason, time.monotonic()
        self.context.send_queue.drop(self.id)
        if self._reply is not None:
            self._reply.cancel(reason)

    async def run(self, dialogue: Dialogue) -> None:
        """From the first event to `response.done`, whatever happens in between."""
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
        """It cannot begin, or cannot go on: what nobody foresaw goes into the log, too."""
        if not isinstance(error, BaichuanAudioError):
            self.context.log.exception(error, session_id=self.context.session_id, response_id=self.id)
        self._finish(ReplyDone("failed", None, "", Usage()), error)

    async def _relay(self, dialogue: Dialogue) -> ReplyDone:
        """Pass the reply on; what comes after a cancel is not."""
        settings = self.settings
        self._reply = dialogue.reply(
            speak=settings.speak,
            max_tokens=settings.max_output_tokens,
            instructions=settings.instructions,
            item_id=self.item.id,
            remember=settings.remember,
        )
        asked_at = time.monotonic()
        async for event in self._reply:
            self._making_seconds += time.monotonic() - asked_at
            if isinstance(event, ReplyDone):
                return event
            if self.cancel_reason is None:
                self._open()
                if isinstance(event, TextDelta):
                    self._text += event.text
                    self._put(self._events.text_delta(event.text))
                elif isinstance(event, AudioDelta):
                    self._put_audio(self._encoder.push(event.waveform.numpy()))
                    await self.context.send_queue.room()
            asked_at = time.monotonic()
        raise BaichuanAudioError("the reply ended without saying so.")

    def _open(self) -> None:
        """The message and its one part, before anything is in them."""
        if self._opened:
            return
        self._opened = True
        wire, place = self.item.as_wire(), self._previous_id()
        self._put(events.output_item_added(self.id, wire))
        if self.settings.remember:
            self._put(events.item_added(wire, place))
        self._put(self._events.part_added())

    def _put_audio(self, data: bytes) -> None:
        """Sound in pieces of half a second, so that an interruption can take most of it back."""
        format = self.settings.output_format
        for piece in in_pieces(data, format, _LONGEST_DELTA_S):
            samples = num_samples(len(piece), format)
            self.item.made_samples += samples
            event = self._events.audio_delta(base64.b64encode(piece).decode())
            self.context.send_queue.put(event, self.id, lambda samples=samples: self._sent(samples))  # type: ignore[misc]

    def _sent(self, samples: int) -> None:
        if self.playback.stopped:
            return  # it was on its way when the listener was cut off
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
        self.context.send_queue.put(events.response_done(wire), on_sent=self._observe)
        if self.cancel_reason == "turn_detected":
            self.context.metrics.barge_in(time.monotonic() - self._cancelled_at)
        self.context.log.write(
            "response",
            session_id=self.context.session_id,
            response_id=self.id,
            status=status,
            reason=str(as_api_error(error).code) if error else self.cancel_reason,
            seconds=round(self.item.made_samples / self.item.sample_rate, 2),
            content={"text": self._text, "reason": str(error or done.reason or "")},
        )

    def _status(self, done: ReplyDone) -> str:
        """A reply that somebody else than the client ended has failed, as far as the client can tell."""
        if self.cancel_reason is not None:
            return "cancelled"
        return "failed" if done.status == "cancelled" else done.status

    def _close_item(self, status: str) -> None:
        speak = self.settings.speak
        self.item.status = "completed" if status == "completed" else "incomplete"
        self.item.parts = [Part("output_audio" if speak else "output_text", self._text)]
        wire = self.item.as_wire()
        if speak:
            self._put(self._events.audio_done())
        self._put(self._events.text_done(self._text))
        self._put(self._events.part_done(self._text))
        self._put(events.output_item_done(self.id, wire))
        if self.settings.remember and self.item.id in self.context.conversation:
            self._put(events.item_done(wire, self._previous_id()))

    def _details(self, status: str, done: ReplyDone, error: Exception | None) -> dict[str, Any] | None:
        """`status_details`; the protocol has no reason for a reply that ran away, so its `error` names it."""
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
            told = as_api_error(error)
            kind, code, message = told.type, told.code, told.message
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
            "audio": {"output": {"format": format_as_wire(settings.output_format), "voice": settings.voice}},
            "usage": events.usage(usage) if usage is not None else None,
            "metadata": settings.metadata,
        }

    def _previous_id(self) -> str | None:
        return self.context.conversation.previous_id(self.item.id) if self.settings.remember else None

    def _put(self, event: events.Event) -> None:
        self.context.send_queue.put(event)

    def _observe(self) -> None:
        """When all of it has gone out."""
        if self.playback.sent > 0:
            self.context.metrics.underrun(self.playback.underrun)
            if self.cancel_reason is None:
                self.context.metrics.rtf(self._making_seconds / self.playback.sent_seconds)

"""One conversation over one connection: the state machine between what a client sends and what the engine does.

Events are answered at once, in the order they come; what they ask of the engine happens one after the other in that
same order, by one worker, so that a new item never overtakes the reply before it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import torch

from ...engine import AudioInput, Dialogue, Engine, EngineStopped
from ...errors import BaichuanAudioError, PromptError
from ..errors import as_api_error
from ..logging import EventLog
from ..metrics import Metrics
from ..settings import ServerSettings
from ..turn_detection import SAMPLE_RATE
from . import events, wire
from .audio import in_seconds, seconds
from .config import SessionConfig
from .conversation import Conversation, Item, Part, new_item, to_float
from .fields import WireError
from .limits import Bucket
from .outbox import Outbox
from .response import Desk, Response, ResponseSettings
from .transcripts import Transcriber
from .turns import Sound, Turns
from .worker import Worker, run_apart

_RESPONSES_A_MINUTE = 120
_WATCH_S = 0.1
_STUCK_S = 20.0


class Session:
    """What one client says and gets to hear.

    dialogue: the engine's side, which the caller closes. `ended` tells why the session has to end: close code, outcome.
    """

    def __init__(
        self,
        engine: Engine,
        dialogue: Dialogue,
        settings: ServerSettings,
        metrics: Metrics,
        log: EventLog,
        outbox: Outbox,
    ) -> None:
        self.id = events.new_id("sess")
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._engine, self._dialogue, self._settings = engine, dialogue, settings
        self._metrics, self._log, self._outbox = metrics, log, outbox
        self._conversation = Conversation()
        self._desk = Desk(self.id, events.new_id("conv"), self._conversation, outbox, metrics, log, engine.sample_rate)
        self._config = SessionConfig(model=settings.model_name, voice=engine.voices[0])
        self._turns = Turns(self, self._config, settings.max_audio_seconds)
        self._voice: str | None = None  # what the dialogue has been set to
        self._worker = Worker(self._failed)
        self._waiting_s = 0.0  # of sound in items that the worker has not come to
        self._transcriber = Transcriber(self._desk, dialogue)
        self._response: Response | None = None  # the newest
        self._allowance = Bucket(_RESPONSES_A_MINUTE, _RESPONSES_A_MINUTE / 60)
        self._started = self._busy_at = time.monotonic()
        self._expires_at = int(time.time() + settings.max_session_seconds)

    def greet(self) -> None:
        """`session.created`, the first event of all."""
        self.send(events.session_created(self._config.as_wire(self.id, self._expires_at)))

    async def run(self) -> None:
        """The worker, and the eye on the clock; ends only when cancelled."""
        tasks = [asyncio.create_task(self._worker.run()), asyncio.create_task(self._watch())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._transcriber.stop()

    async def handle(self, frame: str) -> None:
        """Do what one frame asks; what is wrong with it is told, and the session goes on."""
        event_id: str | None = None
        try:
            if len(frame) > self._settings.max_message_bytes:
                raise WireError("The frame is too large.", "message_too_large")
            fields = wire.read_frame(frame)
            event_id = fields.text("event_id", 512)
            await self._do(wire.read_event(fields, self._engine.voices))
        except Exception as error:
            self._tell(error, event_id)

    def refuse_binary(self) -> None:
        """Frames are text here, sound is base64 in them."""
        self._tell(WireError("Frames must be text: JSON, with sound in base64.", "invalid_frame"), None)

    def end(self, code: int, outcome: str, message: str | None = None) -> None:
        """The session has to end. message: what the client gets to read first."""
        if self.ended.done():
            return
        if message is not None:
            self._metrics.error(f"session_{outcome}")
            self.send(events.error(message, f"session_{outcome}", "session_error"))
        if self._response is not None:
            self._response.cancel("client_cancelled")
        self.ended.set_result((code, outcome))

    async def wait_quiet(self, timeout_s: float) -> None:
        """Wait until no response is being made."""
        deadline = time.monotonic() + timeout_s
        while self._response is not None and not self._response.finished and time.monotonic() < deadline:
            await asyncio.sleep(_WATCH_S)

    # What Turns asks for.

    def send(self, event: events.Event) -> None:
        """Queue an event."""
        self._outbox.put(event)

    def interrupt(self) -> None:
        """The user speaks: end the response, and let the history hold no more than can have been heard."""
        self._busy_at = time.monotonic()
        response = self._response
        if response is None or not response.settings.remember:
            return
        if response.active or response.playback.remaining(time.monotonic()) > 0:
            response.cancel("turn_detected")
            response.playback.stop(time.monotonic())
            self._cut_later(response)

    def commit(self, item_id: str, sound: Sound) -> None:
        """The user's turn, found or committed, becomes an item."""
        self._metrics.audio_seconds("in", len(sound) / SAMPLE_RATE)
        item = Item(item_id, "user", [Part("input_audio", None, sound)])
        self.send(events.audio_committed(item_id, self._conversation.last_id))
        heard = AudioInput(torch.from_numpy(to_float(sound)), SAMPLE_RATE)
        self._add(item, None, [heard])
        if self._config.transcription is not None:
            self._transcriber.start(item_id, heard)  # the same object: the engine need not encode it twice

    def answer(self, item_id: str | None, ended_at: float) -> None:
        """Respond to a turn."""
        try:
            self._respond(wire.ResponseParams(), ended_at, item_id)
        except WireError as error:
            self._tell(error, None)

    def endpoint(self, delay_s: float) -> None:
        """For the figures."""
        self._metrics.endpoint_delay(delay_s)

    # What clients ask for.

    async def _do(self, event: wire.ClientEvent) -> None:
        if not isinstance(event, wire.AudioAppend):
            self._busy_at = time.monotonic()
        match event:
            case wire.AudioAppend():
                await self._append(event.audio)
            case wire.AudioCommit():
                self._turns.commit()
            case wire.AudioClear():
                self._turns.clear()
            case wire.OutputClear():
                self._clear_output()
            case wire.SessionUpdate():
                self._update(event.session)
            case wire.ItemCreate():
                await self._create_item(event)
            case wire.ItemRetrieve():
                await self._retrieve(event.item_id)
            case wire.ItemDelete():
                self._delete_item(event.item_id)
            case wire.ItemTruncate():
                self._truncate(event)
            case wire.ResponseCreate():
                await self._create_response(event.params)
            case wire.ResponseCancel():
                self._cancel(event.response_id)

    async def _append(self, audio: bytes) -> None:
        format = self._config.input_format
        self._turns.check_room(seconds(len(audio), format))
        for piece in in_seconds(audio, format):
            self._turns.push(piece)
            await asyncio.sleep(0)

    def _update(self, session: object) -> None:
        config = self._config.updated(session, self._engine.voices)
        system = config.instructions if config.instructions != self._config.instructions else None

        async def configure() -> None:
            self._dialogue.configure(system=system)

        if system is not None:
            self._worker.check_room()
            self._worker.add(configure)
        self._config = config
        self._turns.configure(config)
        self.send(events.session_updated(config.as_wire(self.id, self._expires_at)))

    async def _create_item(self, event: wire.ItemCreate) -> None:
        item = await self._read_item(event.item)
        self._add(item, event.previous_item_id, item.for_engine())

    async def _read_item(self, new: wire.NewItem) -> Item:
        """A client's message; a thread of its own does the work, since there may be minutes of sound in it."""
        item_id, longest = new.id or events.new_id("item"), self._settings.max_audio_seconds
        return await asyncio.to_thread(new_item, item_id, new, self._config.input_format, longest)

    async def _retrieve(self, item_id: str) -> None:
        item = self._conversation.get(item_id)
        await self._outbox.room()  # who does not take what was asked for may not ask for more
        wire_item = await asyncio.to_thread(item.as_wire, self._config.input_format)
        self.send(events.item_retrieved(wire_item))

    def _add(self, item: Item, after: str | None, content: list[str | AudioInput]) -> None:
        """Into the conversation, here at once and in the engine in its turn. content: a user's, for the engine."""
        in_the_middle = after is not None and after != (self._conversation.last_id or "root")
        if in_the_middle and item.role != "user":
            message = "Only a user's message can be put before others."
            raise WireError(message, "unsupported_position", "previous_item_id")
        place = after if in_the_middle else None
        length_s = item.sound_seconds
        if self._waiting_s > 0 and self._waiting_s + length_s > self._settings.max_audio_seconds:
            raise WireError("The sound of earlier items is still being read; wait.", "too_many_requests", "item")

        async def add() -> None:
            self._waiting_s -= length_s
            try:
                if item.role == "user":
                    await self._dialogue.add_user(content, item_id=item.id, after=place)
                elif item.role == "assistant":
                    await self._dialogue.add_assistant(item.text, item_id=item.id)
                else:
                    await self._dialogue.add_system(item.text, item_id=item.id)
            except BaichuanAudioError:
                self._conversation.remove(item.id)
                self.send(events.item_deleted(item.id))
                raise

        self._worker.check_room()
        self._conversation.insert(item, place)
        self._waiting_s += length_s
        self._worker.add(add)
        previous = self._conversation.previous_id(item.id)
        self.send(events.item_added(item.as_wire(), previous))
        self.send(events.item_done(item.as_wire(), previous))

    def _delete_item(self, item_id: str) -> None:
        item = self._conversation.get(item_id)
        if item.status == "in_progress":
            raise WireError("The item is being written; cancel its response first.", "item_in_progress", "item_id")

        async def delete() -> None:
            try:
                await self._dialogue.delete(item_id)
            except PromptError:
                if item.heard_seconds != 0:  # what nobody heard is not there any more
                    raise

        self._worker.check_room()
        self._worker.add(delete)
        self._conversation.remove(item_id)
        self.send(events.item_deleted(item_id))

    def _truncate(self, event: wire.ItemTruncate) -> None:
        item = self._conversation.get(event.item_id)
        if item.role != "assistant" or item.made_seconds == 0:
            raise WireError("Only what the assistant has spoken can be truncated.", "invalid_value", "item_id")
        if event.audio_end_ms > item.made_seconds * 1000:
            raise WireError(
                f"The item has {item.made_seconds * 1000:.0f} ms of audio, fewer than {event.audio_end_ms}.",
                "invalid_value",
                "audio_end_ms",
            )
        self._worker.check_room()
        self._worker.add(lambda: self._cut(item, event.audio_end_ms / 1000))

    def _cut_later(self, response: Response) -> None:
        """What was not heard of an interrupted response leaves the conversation, as if the client had asked for it."""

        async def cut() -> None:
            if response.item.id in self._conversation:
                await self._cut(response.item, response.playback.sent)

        if response.settings.speak and response.settings.remember:
            self._worker.add(cut)

    async def _cut(self, item: Item, heard: float) -> None:
        """Let the item hold what was heard of it: the least that anybody said."""
        if item.heard_seconds is None or heard < item.heard_seconds:
            item.heard_seconds = heard
            try:
                text = await self._dialogue.truncate(item.id, heard * item.speed)
            except PromptError:  # it never came to a sound
                text, item.heard_seconds = "", 0.0
                with suppress(PromptError):
                    await self._dialogue.delete(item.id)
            item.parts = [replace(part, text=text) for part in item.parts]
        self.send(events.item_truncated(item.id, round(heard * 1000)))

    async def _create_response(self, params: wire.ResponseParams) -> None:
        """As asked for; with items of its own it does not see the conversation."""
        begun_at, sources = time.monotonic(), None
        if params.input is not None:
            sources = [
                self._conversation.get(entry.id)
                if isinstance(entry, wire.ItemReference)
                else await self._read_item(entry)
                for entry in params.input
            ]
        self._respond(params, begun_at, sources=sources)

    def _respond(
        self,
        params: wire.ResponseParams,
        begun_at: float,
        answers: str | None = None,
        sources: list[Item] | None = None,
    ) -> None:
        if self._response is not None and self._response.active:
            raise WireError(
                f"The conversation has a response in progress already: {self._response.id}.",
                "conversation_already_has_active_response",
            )
        if self._allowance.take(1) > 0:
            message = f"At most {_RESPONSES_A_MINUTE} responses a minute."
            raise WireError(message, "rate_limit_exceeded", kind="rate_limit_error")
        config = self._config
        limit = params.max_output_tokens
        response = Response(
            self._desk,
            ResponseSettings(
                speak=config.speak if params.speak is None else params.speak,
                voice=params.voice or config.voice,
                output_format=params.output_format or config.output_format,
                speed=config.speed,
                instructions=params.instructions,
                max_output_tokens=config.max_output_tokens if limit == wire.SESSION_LIMIT else limit,
                metadata=params.metadata,
                remember=params.remember,
            ),
            begun_at,
            answers,
        )
        self._worker.check_room()
        response.announce()
        self._worker.add(lambda: self._run(response, sources))
        self._response = response
        self.send(events.rate_limits_updated([self._allowance.as_wire("requests")]))

    def _cancel(self, response_id: str | None) -> None:
        response = self._response
        if response is None or not response.active or response_id not in (None, response.id):
            raise WireError("There is no active response to cancel.", "response_cancel_not_active", "response_id")
        response.cancel("client_cancelled")  # what has been sent goes on being heard
        self._cut_later(response)

    def _clear_output(self) -> None:
        """The listener is cut off: like an interruption by voice, but asked for."""
        response = self._response
        if response is None or (not response.active and response.playback.remaining(time.monotonic()) == 0):
            raise WireError("Nothing is being played.", "output_audio_buffer_empty")
        response.cancel("client_cancelled")
        response.playback.stop(time.monotonic())
        self.send(events.output_cleared(response.id))
        self._cut_later(response)

    # What the engine does, in its turn.

    async def _run(self, response: Response, sources: list[Item] | None) -> None:
        """One response from its beginning to its end."""
        if response.answers is not None and response.answers not in self._conversation:
            response.fail(PromptError("the turn it answers could not be used."))
        elif sources is None:
            if response.settings.voice != self._voice:
                self._voice = response.settings.voice
                self._dialogue.configure(voice=self._voice)
            await response.run(self._dialogue)
        else:
            await run_apart(self._engine, response, sources, self._config.instructions)

    async def _watch(self) -> None:
        """Ends the session when a limit has been reached; speaks up when the user is silent for too long."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now, settings = time.monotonic(), self._settings
            quiet, since_word = self._quiet_for(now), now - max(self._busy_at, self._turns.heard_at)
            if self._outbox.overflowed or self._outbox.stuck_for() > min(_STUCK_S, settings.idle_seconds):
                self.end(1008, "slow", "The client does not read what it is sent.")
            elif now - self._started > settings.max_session_seconds:
                self.end(1008, "expired", f"A session lasts {settings.max_session_seconds:g} s at most.")
            elif quiet is not None and min(quiet, since_word) > settings.idle_seconds:
                self.end(1008, "idle", f"Nothing was said for {settings.idle_seconds:g} s.")
            else:
                self._speak_up(now)

    def _quiet_for(self, now: float) -> float | None:
        """Seconds since the last response was heard to its end; None while something goes on."""
        response = self._response
        if response is None:
            return now - self._started
        if not response.finished or response.playback.remaining(now) > 0 or self._turns.speaking:
            return None
        return now - max(response.finished_at, response.playback.ends_at, self._turns.heard_at)

    def _speak_up(self, now: float) -> None:
        """`idle_timeout_ms`: it runs from the end of a response's playback."""
        detection = self._config.turn_detection
        quiet = self._quiet_for(now)
        if detection is None or detection.idle_timeout_ms is None or self._response is None or quiet is None:
            return
        if quiet * 1000 >= detection.idle_timeout_ms:
            self._turns.time_out(quiet)

    def _failed(self, error: Exception) -> None:
        """Something asked of the engine did."""
        if isinstance(error, EngineStopped):
            self.end(1012, "shutdown", "The server is shutting down.")
        else:
            self._tell(error, None)

    def _tell(self, error: Exception, event_id: str | None) -> None:
        """An `error` event; what nobody foresaw goes into the log, too."""
        if isinstance(error, WireError):
            message, code, kind, param = error.message, error.code, error.kind, error.param
        else:
            told = as_api_error(error)
            message, code, kind, param = told.message, told.code or "invalid_request", told.type, told.param
            if code == "internal_error":
                self._log.exception(error, session_id=self.id)
        self._metrics.error(code)
        self.send(events.error(message, code, kind, param, event_id))

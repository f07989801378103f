"""One conversation over one connection: the state machine between what a client sends and what the engine does.

Events are answered at once, in the order they come; what they ask of the engine happens one after the other in that
same order, by one worker, so that a new item never overtakes the reply before it.
"""

from __future__ import annotations

import asyncio
import time

import torch

from ...audio.voice_activity import SAMPLE_RATE
from ...engine import AudioInput, Dialogue, Engine, EngineStopped
from ..monitoring.logging import EventLog
from ..monitoring.metrics import Metrics
from ..settings import ServerSettings
from .conversation.item_list import ConversationItem, ItemList, Part, to_float
from .conversation.items import ItemStore
from .conversation.response import SessionContext
from .conversation.responses import ResponseQueue
from .input.codec import check_whole, in_pieces, seconds
from .input.transcripts import Transcriber
from .input.turns import Segments, Sound, TurnManager
from .protocol import events, wire
from .protocol.config import SessionConfig
from .protocol.fields import WireError, as_wire_error
from .rate_limits import TokenBucket
from .send_queue import SendQueue
from .task_queue import TaskQueue
from .timeouts import Timeouts

_SOUND_S = (600.0, 40.0)  # of the user's at once, then each second, in whatever format: listening takes time


class RealtimeSession:
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
        send_queue: SendQueue,
    ) -> None:
        self.id = events.new_id("sess")
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._engine, self._dialogue, self._settings = engine, dialogue, settings
        self._metrics, self._log, self._send_queue = metrics, log, send_queue
        self._conversation = ItemList()
        self._context = SessionContext(
            self.id, events.new_id("conv"), self._conversation, send_queue, metrics, log, engine.sample_rate
        )
        self._config = config = SessionConfig(model=settings.model_name, voice=engine.voices[0])
        self._tasks = TaskQueue(self._failed)
        longest_s = min(settings.max_audio_seconds, engine.max_turn_seconds)
        self._input_audio = TurnManager(self, config, longest_s)
        self._items = ItemStore(self._context, engine, dialogue, self._tasks, config, longest_s)
        self._responses = ResponseQueue(self._context, engine, dialogue, self._tasks, self._items, config)
        self._transcriber = Transcriber(self._context, dialogue, longest_s)
        self._timeouts = Timeouts(settings, send_queue, self._input_audio, self._responses, self.end, self._time_out)
        self._sound = TokenBucket(*_SOUND_S)
        self._expires_at = int(time.time() + settings.max_session_seconds)

    def greet(self, carried: object = None) -> None:
        """`session.created`, the first event of all. carried: settings to begin with, as of a `session.update`."""
        if carried is not None:
            self._configure(self._config.updated(carried, self._engine.voices))
        self.send(events.session_created(self._config.as_wire(self.id, self._expires_at)))

    async def run(self) -> None:
        """The worker, and the eye on the clock; ends only when cancelled."""
        tasks = [asyncio.create_task(self._tasks.run()), asyncio.create_task(self._timeouts.run())]
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
        self._responses.stop()
        self.ended.set_result((code, outcome))

    async def wait_quiet(self) -> None:
        """Wait until no response is being made."""
        await self._responses.wait_quiet()

    # What Turns asks for.

    def send(self, event: events.Event) -> None:
        """Queue an event."""
        self._send_queue.put(event)

    def interrupt(self) -> None:
        """The user speaks: end the response, and let the history hold no more than can have been heard."""
        self._timeouts.busy()
        self._responses.interrupt()

    async def find_speech(self, sound: Sound) -> Segments:
        """Where somebody speaks in the user's turn."""
        speech = await self._engine.find_speech(AudioInput(torch.from_numpy(to_float(sound)), SAMPLE_RATE))
        return speech.segments

    def commit(self, item_id: str, sound: Sound, segments: Segments, spoken: bool = True) -> None:
        """The user's turn, found or committed, becomes an item."""
        part = Part("input_audio", None if segments and spoken else "", sound, segments)
        item, length_s = ConversationItem(item_id, "user", [part]), len(sound) / SAMPLE_RATE
        content = item.for_engine()
        self._items.add(item, None, content, committed=True)
        self._metrics.audio_seconds("in", length_s)
        if self._config.transcription is None:
            return
        # a single segment is the same object as the message, so that the engine need not encode it twice
        audio = [each for each in content if isinstance(each, AudioInput)]
        if len(segments) > 1:
            audio = [AudioInput(piece, SAMPLE_RATE, vad=False) for piece in part.speech().pieces()]
        self._transcriber.start(item_id, audio if spoken else [], length_s)

    def answer(self, item_id: str | None, ended_at: float) -> None:
        """Respond to a turn."""
        try:
            self._responses.start(wire.ResponseParams(), ended_at, item_id)
        except WireError as error:
            self._tell(error, None)

    def endpoint(self, delay_s: float) -> None:
        """For the figures."""
        self._metrics.endpoint_delay(delay_s)

    # What clients ask for.

    async def _do(self, event: wire.ClientEvent) -> None:
        if not isinstance(event, wire.AudioAppend):
            self._timeouts.busy()
        match event:
            case wire.AudioAppend():
                await self._append(event.audio)
            case wire.AudioCommit():
                await self._input_audio.commit()
            case wire.AudioClear():
                self._input_audio.clear()
            case wire.OutputClear():
                self._responses.clear_output()
            case wire.SessionUpdate():
                self._update(event.session)
            case wire.ItemCreate():
                await self._items.create(event)
            case wire.ItemRetrieve():
                await self._items.retrieve(event.item_id)
            case wire.ItemDelete():
                self._items.delete(event.item_id)
                self._responses.stop_playback(event.item_id)
            case wire.ItemTruncate():
                self._items.truncate(event)
                self._responses.stop_playback(event.item_id)
            case wire.ResponseCreate():
                await self._responses.create(event.params)
            case wire.ResponseCancel():
                self._responses.cancel(event.response_id)

    async def _append(self, audio: bytes) -> None:
        format = self._config.input_format
        check_whole(audio, format)
        self._input_audio.check_room(seconds(len(audio), format))
        for piece in in_pieces(audio, format):
            while (wait := self._sound.take(seconds(len(piece), format))) > 0:
                await asyncio.sleep(wait)
            await self._input_audio.push(piece)
            await asyncio.sleep(0)

    def _update(self, session: object) -> None:
        self._configure(self._config.updated(session, self._engine.voices))
        self.send(events.session_updated(self._config.as_wire(self.id, self._expires_at)))

    def _configure(self, config: SessionConfig) -> None:
        system = config.instructions if config.instructions != self._config.instructions else None

        async def configure() -> None:
            self._dialogue.configure(system=system)

        if system is not None:
            self._tasks.check_room()
            self._tasks.add(configure)
        self._config = config
        for part in (self._input_audio, self._items, self._responses):
            part.configure(config)

    def _time_out(self, silent_seconds: float) -> None:
        """Nobody has said anything for so long."""
        try:
            self._input_audio.time_out(silent_seconds)
        except WireError as error:
            self._tell(error, None)

    # What went wrong.

    def _failed(self, error: Exception) -> None:
        """Something asked of the engine did."""
        if isinstance(error, EngineStopped):
            self.end(1012, "shutdown", "The server is shutting down.")
        else:
            self._tell(error, None)

    def _tell(self, error: Exception, event_id: str | None) -> None:
        """An `error` event; what nobody foresaw goes into the log, too."""
        told = as_wire_error(error, "invalid_request")
        if told.code == "internal_error":
            self._log.exception(error, session_id=self.id)
        self._metrics.error(told.code)
        self.send(events.error(told.message, told.code, told.kind, told.param, event_id))

"""One session over one connection: a client's event is received, validated, acted on, and answered with events.

Events are answered at once, in the order they come. What they ask of the engine runs in that same order, one task after
the other, so that a new item never overtakes the response before it.
"""

from __future__ import annotations

import asyncio
import time

from ...engine import Dialogue, Engine, EngineStopped
from ..errors import ApiError, bad_request
from ..monitoring.logging import EventLog
from ..monitoring.metrics import Metrics
from ..settings import ServerSettings
from .context import SessionContext, TaskQueue
from .conversation.item_list import ItemList
from .conversation.items import ItemHandler
from .conversation.responses import ResponseQueue
from .input.codec import check_whole, in_pieces, seconds
from .input.input_audio import InputAudio
from .input.transcripts import Transcriber
from .protocol import client_events, server_events
from .protocol.session_config import (
    RealtimeAudioConfig,
    RealtimeAudioConfigOutput,
    RealtimeSessionCreateRequest,
)
from .rate_limits import TokenBucket
from .send_queue import SendQueue
from .timeouts import Timeouts

_INPUT_AUDIO_S = (600.0, 40.0)  # at once, then each second, in whatever format: turn detection takes time


def initial_config(engine: Engine) -> RealtimeSessionCreateRequest:
    """The settings with which a session begins: defaults, and the engine's first voice."""
    output = RealtimeAudioConfigOutput(voice=engine.voices[0])
    return RealtimeSessionCreateRequest(audio=RealtimeAudioConfig(output=output))


class RealtimeSession:
    """One client's session.

    dialogue: the engine's side, which the caller closes. `ended`: close code and outcome, once the session has to end.
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
        self.id = server_events.new_id("sess")
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._context = context = SessionContext(
            session_id=self.id,
            conversation_id=server_events.new_id("conv"),
            engine=engine,
            dialogue=dialogue,
            longest_s=min(settings.max_audio_seconds, engine.max_turn_seconds),
            conversation=ItemList(),
            tasks=TaskQueue(self._task_failed),
            send_queue=send_queue,
            metrics=metrics,
            log=log,
        )
        self._config = config = initial_config(engine)
        self._transcriber = Transcriber(context)
        self._items = ItemHandler(context, self._transcriber, config)
        self._responses = ResponseQueue(context, self._items, config)
        self._input_audio = InputAudio(context, self._items, self._responses, config)
        self._timeouts = Timeouts(
            settings, send_queue, self._input_audio, self._responses, self.end, self._respond_to_silence
        )
        self._audio_allowance = TokenBucket(*_INPUT_AUDIO_S)
        self._expires_at = int(time.time() + settings.max_session_seconds)

    def start(self, client_settings: object = None) -> None:
        """Send `session.created`, the first event of all. client_settings: as in a `session.update`, if any."""
        if client_settings is not None:
            self._configure(client_events.read_session(client_settings, self._context.engine.voices))
        self._context.send(server_events.session_created(self._as_wire()))

    async def run(self) -> None:
        """Run the engine's tasks and the timeouts until cancelled."""
        tasks = [asyncio.create_task(self._context.tasks.run()), asyncio.create_task(self._timeouts.run())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._transcriber.stop()

    async def handle(self, frame: str) -> None:
        """Validate one frame and do what it asks; an error is sent, and the session goes on."""
        event_id: str | None = None
        try:
            if len(frame) > self._settings.max_message_bytes:
                raise bad_request("The frame is too large.", code="message_too_large")
            fields = client_events.read_frame(frame)
            event_id = client_events.event_id_of(fields)
            await self._act(client_events.read_event(fields, self._context.engine.voices))
        except Exception as error:
            self._context.report(error, event_id)

    def refuse_binary(self) -> None:
        """Frames are text; audio is base64 in them."""
        error = bad_request("Frames must be text: JSON, with audio in base64.", code="invalid_frame")
        self._context.report(error)

    def end(self, code: int, outcome: str, message: str | None = None) -> None:
        """The session has to end. message: of an `error` event that is sent first."""
        if self.ended.done():
            return
        if message is not None:
            self._context.metrics.error(f"session_{outcome}")
            self._context.send(server_events.error(message, f"session_{outcome}", "session_error"))
        self._responses.stop()
        self.ended.set_result((code, outcome))

    async def wait_quiet(self) -> None:
        """Wait until no response is being generated."""
        await self._responses.wait_quiet()

    async def _act(self, event: client_events.ClientEvent) -> None:
        if not isinstance(event, client_events.InputAudioBufferAppendEvent):
            self._timeouts.busy()
        match event:
            case client_events.InputAudioBufferAppendEvent():
                await self._append(event.audio)
            case client_events.InputAudioBufferCommitEvent():
                await self._input_audio.commit()
            case client_events.InputAudioBufferClearEvent():
                self._input_audio.clear()
            case client_events.OutputAudioBufferClearEvent():
                self._responses.clear_output()
            case client_events.SessionUpdateEvent():
                self._configure(event.session)
                self._context.send(server_events.session_updated(self._as_wire()))
            case client_events.ConversationItemCreateEvent():
                await self._items.create(event)
            case client_events.ConversationItemRetrieveEvent():
                await self._items.retrieve(event.item_id)
            case client_events.ConversationItemDeleteEvent():
                self._items.delete(event.item_id)
                self._responses.stop_playback(event.item_id)
            case client_events.ConversationItemTruncateEvent():
                self._items.truncate(event)
                self._responses.stop_playback(event.item_id)
            case client_events.ResponseCreateEvent():
                await self._responses.create(event.response)
            case client_events.ResponseCancelEvent():
                self._responses.cancel(event.response_id)

    async def _append(self, audio: bytes) -> None:
        format = self._config.audio.input.format.type
        check_whole(audio, format)
        self._input_audio.check_room(seconds(len(audio), format))
        for piece in in_pieces(audio, format):
            while (wait := self._audio_allowance.take(seconds(len(piece), format))) > 0:
                await asyncio.sleep(wait)
            await self._input_audio.push(piece)
            await asyncio.sleep(0)

    def _configure(self, change: RealtimeSessionCreateRequest) -> None:
        config = self._config.updated(change)
        if config.instructions != self._config.instructions:

            async def configure() -> None:
                self._context.dialogue.configure(system=config.instructions)

            self._context.tasks.check_room()
            self._context.tasks.add(configure)
        self._config = config
        for part in (self._input_audio, self._items, self._responses):
            part.configure(config)

    def _as_wire(self) -> dict[str, object]:
        return self._config.as_wire(
            self.id, self._context.dialogue.adapter or self._settings.model_name, self._expires_at
        )

    def _respond_to_silence(self, silent_s: float) -> None:
        try:
            self._input_audio.commit_silence(silent_s)
        except ApiError as error:
            self._context.report(error)

    def _task_failed(self, error: Exception) -> None:
        if isinstance(error, EngineStopped):
            self.end(1012, "shutdown", "The server is shutting down.")
        else:
            self._context.report(error)

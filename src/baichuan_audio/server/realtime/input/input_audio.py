"""The input audio buffer and the user's turns in it."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

from ....audio.speech_segments import MARGIN_S
from ....audio.voice_activity import SAMPLE_RATE
from ....engine import AudioInput
from ...errors import ApiError, bad_request
from ..conversation.item_list import Segments, Sound, to_float, to_int16
from ..conversation.items import ItemHandler
from ..conversation.responses import ResponseQueue
from ..protocol import server_events
from ..protocol.client_events import RealtimeResponseCreateParams
from ..protocol.session_config import RealtimeSessionCreateRequest, TurnDetection
from .codec import InputDecoder
from .turn_detection import SpeechStarted, SpeechStopped, TurnDetector

if TYPE_CHECKING:
    from ..context import SessionContext

_MIN_COMMIT = SAMPLE_RATE // 10
_MAX_SILENCE = 30 * SAMPLE_RATE  # samples kept while nobody speaks
_KEPT_SILENCE = SAMPLE_RATE // 4  # of the silence that ended a turn, what becomes part of it


class AudioBuffer:
    """Audio that has not been committed, int16 [S] at 16 kHz; positions count from the session's first sample."""

    def __init__(self) -> None:
        self._pieces: deque[Sound] = deque()
        self.start = self.end = 0

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, sound: Sound) -> None:
        """Add to the end."""
        self._pieces.append(sound)
        self.end += len(sound)

    def take(self, start: int, end: int) -> Sound:
        """The samples between two positions, as far as they are still there; everything up to `end` is dropped."""
        joined = np.concatenate([*self._pieces, np.zeros(0, np.int16)])
        first = max(start, self.start) - self.start
        last = max(first, min(end, self.end) - self.start)
        taken, rest = joined[first:last], joined[last:].copy()
        self._pieces = deque([rest])
        self.start = self.end - len(rest)
        return taken.copy()

    def put_back(self, sound: Sound) -> None:
        """Undo a `take` of everything."""
        self._pieces.appendleft(sound)
        self.start -= len(sound)

    def keep_last(self, samples: int) -> None:
        """Drop whole pieces that are older than so many samples."""
        while self._pieces and len(self) - len(self._pieces[0]) >= samples:
            self.start += len(self._pieces.popleft())


class InputAudio:
    """Receives audio, and finds the turns in it or waits for commits."""

    def __init__(
        self,
        context: SessionContext,
        items: ItemHandler,
        responses: ResponseQueue,
        config: RealtimeSessionCreateRequest,
    ) -> None:
        self._context, self._items, self._responses = context, items, responses
        self._config = config.audio.input
        self._longest = int(context.longest_s * SAMPLE_RATE)
        self._decoder = InputDecoder(self._config.format.type)
        self._audio = AudioBuffer()
        self._detector: TurnDetector | None = None
        self._item_id: str | None = None  # of the turn that has begun
        self.last_speech_at = time.monotonic()  # or audio, without turn detection
        self.configure(config)

    @property
    def speaking(self) -> bool:
        """Whether the user is in the middle of a turn."""
        return self._detector is not None and self._detector.speaking

    @property
    def idle_timeout_ms(self) -> int | None:
        """After how long without speech the model responds, if at all."""
        detection = self._config.turn_detection
        return None if detection is None else detection.idle_timeout_ms

    def configure(self, config: RealtimeSessionCreateRequest) -> None:
        """Settings that apply from the next sample on."""
        if config.audio.input.format != self._config.format:
            self._decoder = InputDecoder(config.audio.input.format.type)
        self._config = config.audio.input
        detection = self._config.turn_detection
        if detection is None:
            self._detector, self._item_id = None, None
        elif self._detector is None:
            self._detector = TurnDetector(detection, self._audio.end)
        else:
            self._detector.settings = detection

    def check_room(self, length_s: float) -> None:
        """Raises ApiError when the buffer cannot take so many seconds more: with turn detection it always can."""
        if self._detector is None and len(self._audio) + length_s * SAMPLE_RATE > self._longest:
            message = f"The input audio buffer holds {self._longest // SAMPLE_RATE} s; commit or clear it."
            raise bad_request(message, "audio", "input_audio_buffer_full")

    async def push(self, data: bytes) -> None:
        """data: bytes of the input format, a second at most, so that other sessions run in between.

        Raises AudioError for half a sample.
        """
        arrived = time.monotonic()
        samples = self._decoder.push(data)
        self._audio.append(to_int16(samples))
        if self._detector is None:
            self.last_speech_at = arrived
            return
        for event in self._detector.push(samples):
            if isinstance(event, SpeechStarted):
                self._speech_started(event)
            else:
                await self._speech_stopped(event, arrived)
        if self._detector.speaking:
            self.last_speech_at = arrived
            if len(self._audio) > self._longest:  # longer than a turn may be: end it here
                await self._speech_stopped(SpeechStopped(self._audio.end, self._audio.end), arrived)
        else:
            self._audio.keep_last(_MAX_SILENCE)

    async def commit(self) -> None:
        """The buffer becomes a turn, a silent one where nobody speaks. Raises ApiError below 100 ms."""
        length_ms = len(self._audio) * 1000 / SAMPLE_RATE
        if len(self._audio) < _MIN_COMMIT:
            message = f"The input audio buffer holds {length_ms:.0f} ms; a commit needs at least 100 ms."
            raise bad_request(message, code="input_audio_buffer_commit_empty")
        sound = self._audio.take(self._audio.start, self._audio.end)
        try:
            self._items.commit(self._turn_id(), sound, await self._find_speech(sound))
        except Exception:
            self._audio.put_back(sound)  # there may be room for it later
            raise
        self._end_turn()

    def clear(self) -> None:
        """Drop what is in the buffer."""
        self._end_turn()
        self._audio.take(self._audio.end, self._audio.end)
        self._context.send(server_events.audio_cleared())

    def commit_silence(self, silent_s: float) -> None:
        """Nobody has spoken for so long: the silence in the buffer becomes the user's turn, and the model responds."""
        self.last_speech_at = time.monotonic()
        item_id = self._end_turn()
        end = self._audio.end
        start = max(self._audio.start, end - int(silent_s * SAMPLE_RATE))
        self._context.send(server_events.timeout_triggered(item_id, _ms(start), _ms(end)))
        sound = self._audio.take(start, end)
        committed = len(sound) >= _MIN_COMMIT
        if committed:
            self._items.commit(item_id, sound, _whole(sound), spoken=False)
        self._respond(item_id if committed else None, time.monotonic())

    def _speech_started(self, event: SpeechStarted) -> None:
        assert self._config.turn_detection is not None
        self._item_id, self.last_speech_at = server_events.new_id("item"), time.monotonic()
        start = max(event.start, self._audio.start)
        self._audio.take(start, start)
        self._context.send(server_events.speech_started(self._item_id, _ms(start)))
        if self._config.turn_detection.interrupt_response:
            self._responses.interrupt()

    async def _speech_stopped(self, event: SpeechStopped, arrived: float) -> None:
        detection = self._config.turn_detection
        assert detection is not None
        ended_at = time.monotonic()
        item_id = self._end_turn()
        self._context.metrics.endpoint_delay((event.decided - event.speech_end) / SAMPLE_RATE + ended_at - arrived)
        self._context.send(server_events.speech_stopped(item_id, _ms(event.decided)))
        sound = self._audio.take(self._audio.start, min(event.speech_end + _KEPT_SILENCE, event.decided))
        self._audio.take(event.decided, event.decided)
        self._items.commit(item_id, sound, await self._segments(sound, detection))
        if detection.create_response:
            self._respond(item_id, ended_at)

    async def _segments(self, sound: Sound, detection: TurnDetection) -> Segments:
        """The segments of speech in a detected turn; all of it where there can be no pause to shorten."""
        short_pauses = detection.silence_duration_ms <= 2000 * MARGIN_S
        if short_pauses and detection.prefix_padding_ms <= 1000 * MARGIN_S:
            return _whole(sound)
        return await self._find_speech(sound) or _whole(sound)

    async def _find_speech(self, sound: Sound) -> Segments:
        audio = AudioInput(torch.from_numpy(to_float(sound)), SAMPLE_RATE)
        return (await self._context.engine.find_speech(audio)).segments

    def _respond(self, item_id: str | None, ended_at: float) -> None:
        """Start a response to a turn. ended_at: when its end was detected, on the monotonic clock."""
        try:
            self._responses.start(RealtimeResponseCreateParams(), ended_at, item_id)
        except ApiError as error:
            self._context.report(error)

    def _turn_id(self) -> str:
        """The id for the item of this turn."""
        self._item_id = self._item_id or server_events.new_id("item")
        return self._item_id

    def _end_turn(self) -> str:
        """The id for the item of the turn that ends."""
        item_id, self._item_id = self._turn_id(), None
        if self._detector is not None:
            self._detector.end_turn()
        return item_id


def _whole(sound: Sound) -> Segments:
    return [(0, len(sound))]


def _ms(position: int) -> int:
    return position * 1000 // SAMPLE_RATE

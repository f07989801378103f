"""The input audio buffer and the turns found in it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ....audio.speech_segments import MARGIN_S
from ....audio.voice_activity import SAMPLE_RATE
from ..conversation.item_list import to_int16
from ..protocol import events
from ..protocol.config import SessionConfig
from ..protocol.fields import WireError
from .codec import InputDecoder
from .turn_detection import SpeechStarted, SpeechStopped, TurnDetection, TurnDetector

_SHORTEST_COMMIT = SAMPLE_RATE // 10
_QUIET = 30 * SAMPLE_RATE  # samples kept while nobody speaks
_KEPT_SILENCE = SAMPLE_RATE // 4  # of the silence that ended a turn, what the model gets to hear

Sound = NDArray[np.int16]
Segments = Sequence[tuple[int, int]]  # of speech: first sample, sample after the last


class TurnListener(Protocol):
    """What is done about turns (the session)."""

    def send(self, event: events.Event) -> None:
        """Tell the client."""

    def interrupt(self) -> None:
        """The user speaks: end what is being said."""

    async def find_speech(self, sound: Sound) -> Segments:
        """Where somebody speaks in the sound."""

    def commit(self, item_id: str, sound: Sound, segments: Segments, spoken: bool = True) -> None:
        """The user's turn becomes an item. segments: of speech, all that the model gets to hear. spoken: False for
        silence that it shall answer."""

    def answer(self, item_id: str | None, ended_at: float) -> None:
        """Respond to it. ended_at: when the turn was found to have ended, on the monotonic clock."""

    def endpoint(self, delay_s: float) -> None:
        """Turn detection took so long to find that speech had ended."""


class InputAudio:
    """Sound that has come in and has not been committed, as int16 at 16 kHz; positions count from the session's
    first sample."""

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
        """The samples between two positions, as far as they are still there; everything up to `end` is let go."""
        joined = np.concatenate([*self._pieces, np.zeros(0, np.int16)])
        first = max(start, self.start) - self.start
        last = max(first, min(end, self.end) - self.start)
        taken, rest = joined[first:last], joined[last:].copy()
        self._pieces = deque([rest])
        self.start = self.end - len(rest)
        return taken.copy()

    def put_back(self, sound: Sound) -> None:
        """Undo a `take` of all that there was."""
        self._pieces.appendleft(sound)
        self.start -= len(sound)

    def keep_last(self, samples: int) -> None:
        """Let go of whole pieces that are older than so many samples."""
        while self._pieces and len(self) - len(self._pieces[0]) >= samples:
            self.start += len(self._pieces.popleft())


class TurnManager:
    """Takes sound in, and finds the turns or waits for commits."""

    def __init__(self, taker: TurnListener, config: SessionConfig, longest_seconds: float) -> None:
        self._taker, self._config = taker, config
        self._longest = int(longest_seconds * SAMPLE_RATE)
        self._decoder = InputDecoder(config.input_format)
        self._audio = InputAudio()
        self._detector: TurnDetector | None = None
        self._item_id: str | None = None  # of the turn that has begun
        self.heard_at = time.monotonic()  # when there last was speech, or sound without detection
        self.configure(config)

    @property
    def speaking(self) -> bool:
        """Whether the user is in the middle of a turn."""
        return self._detector is not None and self._detector.speaking

    @property
    def idle_timeout_ms(self) -> int | None:
        """After how long without speech the model speaks up, if at all."""
        detection = self._config.turn_detection
        return None if detection is None else detection.idle_timeout_ms

    def configure(self, config: SessionConfig) -> None:
        """Settings that count from the next sample on."""
        if config.input_format != self._config.input_format:
            self._decoder = InputDecoder(config.input_format)
        self._config = config
        detection = config.turn_detection
        if detection is None:
            self._detector, self._item_id = None, None
        elif self._detector is None:
            self._detector = TurnDetector(detection, self._audio.end)
        else:
            self._detector.settings = detection

    def check_room(self, length_s: float) -> None:
        """Raises WireError when the buffer cannot take so many seconds more: with detection there is always room."""
        if self._detector is None and len(self._audio) + length_s * SAMPLE_RATE > self._longest:
            message = f"The input audio buffer holds {self._longest // SAMPLE_RATE} s; commit or clear it."
            raise WireError(message, "input_audio_buffer_full", "audio")

    async def push(self, data: bytes) -> None:
        """A second of sound at most, so that others get their turn in between. Raises AudioError for half a sample."""
        arrived = time.monotonic()
        samples = self._decoder.push(data)
        self._audio.append(to_int16(samples))
        if self._detector is None:
            self.heard_at = arrived
            return
        for event in self._detector.push(samples):
            if isinstance(event, SpeechStarted):
                self._speech_started(event)
            else:
                await self._speech_stopped(event, arrived)
        if self._detector.speaking:
            self.heard_at = arrived
            if len(self._audio) > self._longest:  # nobody speaks for so long: take what there is as a turn
                await self._speech_stopped(SpeechStopped(self._audio.end, self._audio.end), arrived)
        else:
            self._audio.keep_last(_QUIET)

    async def commit(self) -> None:
        """All that is in the buffer becomes a turn, a silent one where nobody speaks.

        Raises WireError when there is next to nothing.
        """
        length_ms = len(self._audio) * 1000 / SAMPLE_RATE
        if len(self._audio) < _SHORTEST_COMMIT:
            raise WireError(
                f"The input audio buffer holds {length_ms:.0f} ms; a commit needs at least 100 ms.",
                "input_audio_buffer_commit_empty",
            )
        sound = self._audio.take(self._audio.start, self._audio.end)
        try:
            self._taker.commit(self._turn_id(), sound, await self._taker.find_speech(sound))
        except Exception:
            self._audio.put_back(sound)  # there may be room for it later
            raise
        self._end_turn()

    def clear(self) -> None:
        """Forget what is in the buffer."""
        self._end_turn()
        self._audio.take(self._audio.end, self._audio.end)
        self._taker.send(events.audio_cleared())

    def time_out(self, silent_seconds: float) -> None:
        """The user has said nothing for so long: what silence there is becomes their turn, and the model speaks up."""
        self.heard_at = time.monotonic()
        item_id = self._end_turn()
        end = self._audio.end
        start = max(self._audio.start, end - int(silent_seconds * SAMPLE_RATE))
        self._taker.send(events.timeout_triggered(item_id, _ms(start), _ms(end)))
        sound = self._audio.take(start, end)
        committed = len(sound) >= _SHORTEST_COMMIT
        if committed:
            self._taker.commit(item_id, sound, _whole(sound), spoken=False)
        self._taker.answer(item_id if committed else None, time.monotonic())

    def _speech_started(self, event: SpeechStarted) -> None:
        assert self._config.turn_detection is not None
        self._item_id = events.new_id("item")
        start = max(event.start, self._audio.start)
        self._audio.take(start, start)
        self._taker.send(events.speech_started(self._item_id, _ms(start)))
        if self._config.turn_detection.interrupt_response:
            self._taker.interrupt()

    async def _speech_stopped(self, event: SpeechStopped, arrived: float) -> None:
        detection = self._config.turn_detection
        assert detection is not None
        ended_at = time.monotonic()
        item_id = self._end_turn()
        self._taker.endpoint((event.decided - event.speech_end) / SAMPLE_RATE + ended_at - arrived)
        self._taker.send(events.speech_stopped(item_id, _ms(event.decided)))
        sound = self._audio.take(self._audio.start, min(event.speech_end + _KEPT_SILENCE, event.decided))
        self._audio.take(event.decided, event.decided)
        self._taker.commit(item_id, sound, await self._segments(sound, detection))
        if detection.create_response:
            self._taker.answer(item_id, ended_at)

    async def _segments(self, sound: Sound, detection: TurnDetection) -> Segments:
        """The segments of speech in a turn that was found; all of it where there can be no pause to shorten."""
        short_pauses = detection.silence_duration_ms <= 2000 * MARGIN_S
        if short_pauses and detection.prefix_padding_ms <= 1000 * MARGIN_S:
            return _whole(sound)
        return await self._taker.find_speech(sound) or _whole(sound)

    def _turn_id(self) -> str:
        """The id for the item of this turn."""
        self._item_id = self._item_id or events.new_id("item")
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

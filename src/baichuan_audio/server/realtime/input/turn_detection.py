"""Turn detection: when somebody begins to speak and when they have finished.

Speech probability: `audio/voice_activity.py`, one window of 32 ms at a time as the audio comes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....audio.speech_segments import HYSTERESIS
from ....audio.voice_activity import SAMPLE_RATE, WINDOW, SpeechProbability, VoiceActivityModel
from ..protocol.session_config import TurnDetection

_ONSET_WINDOWS = 2  # windows above the threshold that count as speech: a keystroke is shorter than 64 ms

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks. Positions count samples at 16 kHz from the start of the stream; `start` includes the padding."""

    start: int


@dataclass(frozen=True)
class SpeechStopped:
    """They have finished. speech_end: end of the last speech. decided: where the silence was long enough."""

    speech_end: int
    decided: int


class TurnDetector:
    """Finds the turns in one stream of audio at 16 kHz."""

    def __init__(self, settings: TurnDetection, position: int = 0, model: VoiceActivityModel | None = None) -> None:
        """position: of the first sample that will be pushed, in samples."""
        self.settings = settings
        self.speaking = False
        self._probabilities = SpeechProbability(model)
        self._position = self._floor = position
        self._onset: int | None = None
        self._onset_windows = 0
        self._silence_from: int | None = None

    def push(self, samples: Samples) -> Iterator[SpeechStarted | SpeechStopped]:
        """samples [S] float32 -> the starts and ends of turns in them, in order."""
        for probability in self._probabilities.push(samples):
            self._position += WINDOW
            event = self._in_speech(probability) if self.speaking else self._in_silence(probability)
            if event is not None:
                yield event

    def end_turn(self) -> None:
        """The turn was ended by a commit or a limit: wait for the next one."""
        self.speaking = False
        self._floor = self._position
        self._onset, self._onset_windows, self._silence_from = None, 0, None

    def _in_silence(self, probability: float) -> SpeechStarted | None:
        if probability < self.settings.threshold - HYSTERESIS:
            self._onset, self._onset_windows = None, 0
        elif probability >= self.settings.threshold:
            if self._onset is None:
                self._onset = self._position - WINDOW
            self._onset_windows += 1
        if self._onset is None or self._onset_windows < _ONSET_WINDOWS:
            return None
        padding = self.settings.prefix_padding_ms * SAMPLE_RATE // 1000
        self.speaking, self._silence_from = True, None
        return SpeechStarted(max(self._onset - padding, self._floor))

    def _in_speech(self, probability: float) -> SpeechStopped | None:
        if probability >= self.settings.threshold:
            self._silence_from = None
        elif probability < self.settings.threshold - HYSTERESIS and self._silence_from is None:
            self._silence_from = self._position - WINDOW
        if self._silence_from is None:
            return None
        silence = self._position - self._silence_from
        if silence * 1000 < self.settings.silence_duration_ms * SAMPLE_RATE:
            return None
        event = SpeechStopped(self._silence_from, self._position)
        self.end_turn()
        return event

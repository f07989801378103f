"""When somebody begins to speak and when they have finished.

Speech probability: `audio/voice_activity.py`, one window of 32 ms at a time as the sound comes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....audio.speech_segments import HYSTERESIS
from ....audio.voice_activity import SAMPLE_RATE, WINDOW, SpeechProbability, VoiceActivityModel

_ONSET_WINDOWS = 2  # windows above the threshold before it counts: a click of a key is shorter than 64 ms

Eagerness = Literal["low", "medium", "high", "auto"]
_EAGERNESS_WAIT_MS: dict[Eagerness, int] = {"low": 1600, "medium": 800, "auto": 800, "high": 400}

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ServerVad:
    """A turn ends after a fixed silence.

    threshold: speech probability in [0, 1] that counts as speech. prefix_padding_ms: sound kept from before it.
    silence_duration_ms: silence that ends a turn. idle_timeout_ms: after so long without speech the model speaks up.
    create_response: answer when the turn ends. interrupt_response: speech ends a reply that is being given.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True)
class SemanticVad:
    """A turn ends after a silence that depends on how eager the model shall be: 1600, 800 (auto too) or 400 ms.

    There is no model of meaning behind it: the words are those of the protocol, the waits are ours.
    """

    eagerness: Eagerness = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    threshold = 0.5
    prefix_padding_ms = 300
    idle_timeout_ms = None

    @property
    def silence_duration_ms(self) -> int:
        """Silence that ends a turn."""
        return _EAGERNESS_WAIT_MS[self.eagerness]


TurnDetection = ServerVad | SemanticVad


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks. Positions count samples at 16 kHz from the stream's beginning; `start` includes the padding."""

    start: int


@dataclass(frozen=True)
class SpeechStopped:
    """They have finished: `speech_end` is where the last speech was, `decided` where the silence was long enough."""

    speech_end: int
    decided: int


class TurnDetector:
    """Finds the turns in one stream of sound at 16 kHz."""

    def __init__(self, settings: TurnDetection, position: int = 0, model: VoiceActivityModel | None = None) -> None:
        """position: where in the stream, in samples, the first sample pushed stands."""
        self.settings = settings
        self.speaking = False
        self._probabilities = SpeechProbability(model)
        self._position = self._floor = position
        self._onset: int | None = None
        self._onset_windows = 0
        self._silence_from: int | None = None

    def push(self, samples: Samples) -> Iterator[SpeechStarted | SpeechStopped]:
        """samples [S] -> what happened in them, in order."""
        for probability in self._probabilities.push(samples):
            self._position += WINDOW
            event = self._in_speech(probability) if self.speaking else self._in_silence(probability)
            if event is not None:
                yield event

    def end_turn(self) -> None:
        """The turn has been ended from outside (a commit, a limit): wait for the next one."""
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

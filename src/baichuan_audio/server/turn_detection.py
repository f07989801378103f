"""When somebody begins to speak and when they have finished.

Speech probability: silero-vad 6 (MIT), its ONNX file run by onnxruntime, one window of 32 ms at a time. Only the file
is used: importing the `silero_vad` package would set torch to one thread for the whole process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependencyError

SAMPLE_RATE = 16000
WINDOW = 512  # samples the model judges at once
_CONTEXT = 64  # samples before the window that it also reads
_STATE_SHAPE = (2, 1, 128)
_HYSTERESIS = 0.15  # speech goes on until the probability falls so far below the threshold
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


class SpeechModel:
    """The network; one is enough for all streams, since each brings its own state."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "turn detection needs onnxruntime: pip install 'baichuan-audio[server]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a window takes 0.2 ms
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(SAMPLE_RATE, np.int64)

    def __call__(self, samples: Samples, state: Any) -> tuple[float, Any]:
        """samples [64 + 512] and state [2, 1, 128] -> probability of speech, next state."""
        output, state = self._session.run(None, {"input": samples[None], "state": state, "sr": self._rate})
        return float(output[0, 0]), state


@lru_cache(maxsize=1)
def load_speech_model() -> SpeechModel:
    """The network of the installed silero-vad. Raises MissingDependencyError without it."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise MissingDependencyError("turn detection needs silero-vad: pip install 'baichuan-audio[server]'.")
    return SpeechModel(Path(package.origin).parent / "data" / "silero_vad.onnx")


class SpeechProbability:
    """Speech probabilities of one stream that comes in pieces of any length."""

    def __init__(self, model: SpeechModel) -> None:
        self._model = model
        self._state = np.zeros(_STATE_SHAPE, np.float32)
        self._samples: Samples = np.zeros(_CONTEXT, np.float32)  # the context, then what fills no window yet

    def push(self, samples: Samples) -> Iterator[float]:
        """samples [S] at 16 kHz -> the probability of each window of 512 samples they complete."""
        self._samples = np.concatenate([self._samples, samples])
        while len(self._samples) >= _CONTEXT + WINDOW:
            probability, self._state = self._model(self._samples[: _CONTEXT + WINDOW], self._state)
            self._samples = self._samples[WINDOW:]
            yield probability


class TurnDetector:
    """Finds the turns in one stream of sound at 16 kHz."""

    def __init__(self, settings: TurnDetection, position: int = 0, model: SpeechModel | None = None) -> None:
        """position: where in the stream, in samples, the first sample pushed stands."""
        self.settings = settings
        self.speaking = False
        self._probabilities = SpeechProbability(model or load_speech_model())
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
        if probability < self.settings.threshold - _HYSTERESIS:
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
        elif probability < self.settings.threshold - _HYSTERESIS and self._silence_from is None:
            self._silence_from = self._position - WINDOW
        if self._silence_from is None:
            return None
        silence = self._position - self._silence_from
        if silence * 1000 < self.settings.silence_duration_ms * SAMPLE_RATE:
            return None
        event = SpeechStopped(self._silence_from, self._position)
        self.end_turn()
        return event

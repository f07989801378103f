"""Voice activity detection: the silero-vad network, and the segments of speech in a recording.

Speech probability: silero-vad 6 (MIT), its ONNX file run by onnxruntime, one window of 32 ms at a time. Only the file
is used: importing the `silero_vad` package would set torch to one thread for the whole process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import MissingDependencyError
from .speech_segments import speech_segments
from .waveform import prepare_waveform

SAMPLE_RATE = 16000
WINDOW = 512  # samples of one evaluation
WINDOW_S = WINDOW / SAMPLE_RATE
_CONTEXT = 64  # samples before the window that it also gets
_STATE_SHAPE = (2, 1, 128)
_BLOCK_S = 10  # seconds of audio in one step: about 30 ms of work
_LEAD_IN = 4 * WINDOW
_TAIL = WINDOW  # of silence, which fills the last window
_SPEECH_LEVEL = 0.1  # root mean square to which the input of the network is amplified
_QUIET_LEVEL = 0.01  # below it the recording is amplified for the model too, whose log-mel depends on the level
_QUIET_WINDOWS = 3
_LOUD_WINDOWS = 6  # windows that reach that level: a word has more, a click fewer
_MAX_GAIN = 1000.0
_SINGLE_WORD_S = 0.6  # a recording up to this length may be a single word without silence
_INSTALL = "pip install onnxruntime silero-vad, or disable it (vad=False, --no-vad)"

Samples = NDArray[np.float32]


class VoiceActivityModel:
    """The network; one serves all streams, whose state is passed in."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependencyError(f"voice activity detection needs onnxruntime: {_INSTALL}.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a window takes 0.1 ms
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(SAMPLE_RATE, np.int64)

    def __call__(self, samples: Samples, state: Any) -> tuple[float, Any]:
        """samples [64 + 512] and state [2, 1, 128] -> probability of speech, next state."""
        output, state = self._session.run(None, {"input": samples[None], "state": state, "sr": self._rate})
        return float(output[0, 0]), state


@lru_cache(maxsize=1)
def load_voice_activity_model() -> VoiceActivityModel:
    """The network of the installed silero-vad. Raises MissingDependencyError without it."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise MissingDependencyError(f"voice activity detection needs silero-vad: {_INSTALL}.")
    return VoiceActivityModel(Path(package.origin).parent / "data" / "silero_vad.onnx")


class SpeechProbability:
    """Speech probabilities of one stream, for chunks of any length."""

    def __init__(self, model: VoiceActivityModel | None = None) -> None:
        self._model = model or load_voice_activity_model()
        self._state = np.zeros(_STATE_SHAPE, np.float32)
        self._samples: Samples = np.zeros(_CONTEXT, np.float32)  # the context, then an incomplete window

    def push(self, samples: Samples) -> Iterator[float]:
        """samples [S] at 16 kHz -> the probability of each window of 512 samples they complete."""
        samples_left, first = np.concatenate([self._samples, samples]), 0
        self._samples = samples_left[(len(samples_left) - _CONTEXT) // WINDOW * WINDOW :]
        while len(samples_left) - first >= _CONTEXT + WINDOW:
            probability, self._state = self._model(samples_left[first : first + _CONTEXT + WINDOW], self._state)
            first += WINDOW
            yield probability


@dataclass(frozen=True)
class Speech:
    """A mono recording and its segments of speech; quiet speech has been amplified.

    waveform: [S]. segments: (first sample, sample after the last), in order, without overlap.
    """

    waveform: Tensor
    sample_rate: int
    segments: Sequence[tuple[int, int]]

    @classmethod
    def whole(cls, waveform: Tensor, sample_rate: int) -> Speech:
        """All of waveform [S] (or [channels, S]) as one segment. Raises AudioError when it cannot be used."""
        waveform = prepare_waveform(waveform, sample_rate, sample_rate)
        return cls(waveform, sample_rate, [(0, waveform.shape[0])])

    def pieces(self) -> list[Tensor]:
        """The waveform [S'] of each segment; not copied."""
        return [self.waveform[start:end] for start, end in self.segments]

    def joined(self) -> Tensor:
        """The concatenated segments [S']: the recording with long pauses shortened; empty without speech."""
        pieces = self.pieces()
        return pieces[0] if len(pieces) == 1 else torch.cat([self.waveform[:0], *pieces])


def find_speech(waveform: Tensor, sample_rate: int, max_seconds: float | None = None) -> Speech:
    """Segments of speech in waveform [S] (or [channels, S]) at any rate and level.

    max_seconds: a longer segment is split where speech is weakest. Raises AudioError for a waveform that is
    empty or not finite, MissingDependencyError without onnxruntime or silero-vad.
    """
    return last_of(find_speech_in_steps(waveform, sample_rate, max_seconds))


def last_of(steps: Iterator[Speech | None]) -> Speech:
    """The result of `find_speech_in_steps`."""
    *_, speech = steps
    assert speech is not None
    return speech


def find_speech_in_steps(
    waveform: Tensor, sample_rate: int, max_seconds: float | None = None
) -> Iterator[Speech | None]:
    """`find_speech` in steps: yields None after each ten seconds of audio, last the result."""
    waveform = prepare_waveform(waveform, sample_rate, sample_rate)
    length_s = waveform.shape[0] / sample_rate
    samples = waveform.cpu().numpy()
    levels = _levels(samples, sample_rate)
    gain = _gain(levels, _LOUD_WINDOWS)
    yield None
    segments: list[tuple[float, float]] = []
    for lead_in in (True, False) if length_s <= _SINGLE_WORD_S else (True,):
        probabilities: list[float] = []
        for block in _probabilities(samples, sample_rate, gain, lead_in):
            probabilities += block
            yield None
        segments = speech_segments(np.array(probabilities, np.float32), levels, WINDOW_S, length_s, max_seconds)
        if segments:
            break
    louder = _gain(levels, _QUIET_WINDOWS)
    if segments and louder > _SPEECH_LEVEL / _QUIET_LEVEL:
        waveform = (waveform * louder).clamp(-1, 1)
    yield Speech(waveform, sample_rate, [(round(a * sample_rate), round(b * sample_rate)) for a, b in segments])


def _levels(samples: Samples, sample_rate: int) -> Samples:
    """samples [S] at any rate -> level of each window of 32 ms [W]: root mean square without its mean."""
    window = max(round(WINDOW_S * sample_rate), 1)
    windows = -(-len(samples) // window)
    padded = np.pad(samples, (0, windows * window - len(samples)), mode="edge")
    return padded.reshape(windows, window).std(axis=1)


def _gain(levels: Samples, windows: int) -> float:
    """The gain that brings the loudest windows to the level of the network's training: 30 dB below it, it misses every
    third spoken digit."""
    loudest = np.sort(levels)[-windows:]
    return min(_SPEECH_LEVEL / max(float(loudest[0]), 1e-9), _MAX_GAIN)


def _probabilities(samples: Samples, sample_rate: int, gain: float, lead_in: bool) -> Iterator[list[float]]:
    """samples [S] at any rate -> the speech probability of each window, in steps of ten seconds of audio.

    lead_in: prepend the mirrored beginning. Without it the network mistakes the onset of a hum or of music at the
    beginning for speech; but it detects a single word without silence better by its onset.
    """
    stream = SpeechProbability()
    offset = float(samples.mean())
    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1) if sample_rate != SAMPLE_RATE else None
    block = _BLOCK_S * sample_rate
    for start in range(0, len(samples), block):
        part = (samples[start : start + block] - offset) * np.float32(gain)
        last = start + block >= len(samples)
        block_16k = part if resampler is None else resampler.resample_chunk(part, last=last)
        if start == 0:
            before = np.pad(block_16k, (_LEAD_IN, 0), mode="reflect" if lead_in else "constant")[:_LEAD_IN]
            for _ in stream.push(before):
                pass
        yield list(stream.push(np.pad(block_16k, (0, _TAIL if last else 0))))

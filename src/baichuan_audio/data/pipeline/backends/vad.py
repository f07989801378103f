"""Speech probability: silero-vad 6 (MIT) by its ONNX file, or a threshold on energy for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio_access import Samples
from .registry import onnx_session, package_file

WINDOW = 512
"""Samples at 16 kHz that one probability stands for."""
_CONTEXT = 64


class VoiceActivity(Protocol):
    """Blocks of one stream at 16 kHz -> the probability of speech in each whole window of 512 samples [N]."""

    def __call__(self, blocks: Iterable[Samples]) -> NDArray[np.float32]: ...


class Silero:
    """The network that reads many windows in one call; its state goes from block to block."""

    def __init__(self) -> None:
        path = package_file("silero_vad", "data", "silero_vad_16k_sequence.onnx", install="'silero-vad>=6'")
        self._session = onnx_session(path)

    def __call__(self, blocks: Iterable[Samples]) -> NDArray[np.float32]:
        state = [np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)]
        samples: Samples = np.zeros(_CONTEXT, np.float32)
        chunks = []
        for block in blocks:
            samples = np.concatenate([samples, block])
            count = (len(samples) - _CONTEXT) // WINDOW
            if not count:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(samples, _CONTEXT + WINDOW)[::WINDOW][:count]
            feeds = {"input": np.ascontiguousarray(windows), "h": state[0], "c": state[1]}
            probabilities, *state = self._session.run(None, feeds)
            chunks.append(probabilities)
            samples = samples[count * WINDOW :]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


class Energy:
    """Speech is what lies within 30 dB of the loudest second; deterministic and without a network."""

    def __call__(self, blocks: Iterable[Samples]) -> NDArray[np.float32]:
        samples = np.concatenate(list(blocks) or [np.zeros(0, np.float32)])
        windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
        power = (windows**2).mean(axis=1)
        loud = float(np.quantile(power, 0.98)) if len(power) else 0.0
        return (power > max(loud * 1e-3, 1e-7)).astype(np.float32)


class Pyannote:
    """pyannote.audio's voice activity detection; `argument` is its pipeline's hub id."""

    def __init__(self, argument: str) -> None:
        from .registry import require

        library = require("pyannote.audio", "the VAD backend pyannote", "pyannote.audio")
        self._pipeline = library.Pipeline.from_pretrained(argument or "pyannote/voice-activity-detection")

    def __call__(self, blocks: Iterable[Samples]) -> NDArray[np.float32]:
        import torch

        samples = np.concatenate(list(blocks))
        speech = self._pipeline({"waveform": torch.from_numpy(samples)[None], "sample_rate": 16000})
        voiced = np.zeros(len(samples) // WINDOW, np.float32)
        for turn in speech.get_timeline().support():
            voiced[int(turn.start * 16000 / WINDOW) : int(turn.end * 16000 / WINDOW) + 1] = 1.0
        return voiced


BACKENDS: dict[str, Callable[[str], Any]] = {
    "silero": lambda argument: Silero(),
    "energy": lambda argument: Energy(),
    "pyannote": Pyannote,
}

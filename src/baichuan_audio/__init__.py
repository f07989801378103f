"""Speech in, speech out: the Baichuan-Audio model, its checkpoints, its training.

    import baichuan_audio, torch
    model = baichuan_audio.load("path/to/checkpoint", dtype=torch.float32)
    print(model.transcribe("question.wav"))

The names below are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    AudioError,
    BaichuanAudioError,
    CheckpointError,
    ConfigError,
    DataError,
    MissingDependencyError,
    NoSpeechError,
    PromptError,
    PromptTooLongError,
    TrainingError,
)
from .version import __version__

if TYPE_CHECKING:
    from .checkpoint import load, save
    from .generation.events import AudioDelta, TextDelta
    from .generation.reply import ReplySampling
    from .language_model.sampling import Sampling
    from .model import BaichuanAudio, TextPiece, WaveformPiece

_LAZY = {
    "AudioDelta": "generation.events",
    "BaichuanAudio": "model",
    "ReplySampling": "generation.reply",
    "Sampling": "language_model.sampling",
    "TextDelta": "generation.events",
    "TextPiece": "model",  # until 0.3: TextDelta
    "WaveformPiece": "model",  # until 0.3: AudioDelta
    "load": "checkpoint",
    "save": "checkpoint",
}

__all__ = [
    "AudioDelta",
    "AudioError",
    "BaichuanAudio",
    "BaichuanAudioError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingDependencyError",
    "NoSpeechError",
    "PromptError",
    "PromptTooLongError",
    "ReplySampling",
    "Sampling",
    "TextDelta",
    "TextPiece",
    "TrainingError",
    "WaveformPiece",
    "__version__",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Which language is spoken: by Whisper's own guess, or by speechbrain's classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..audio_access import Samples
from .registry import load_backend, require


class SpeechBrain:
    """ECAPA trained on VoxLingua107; `argument` is its hub id."""

    def __init__(self, argument: str) -> None:
        library = require("speechbrain.inference.classifiers", "the language backend voxlingua", "speechbrain")
        source = argument or "speechbrain/lang-id-voxlingua107-ecapa"
        self._model = library.EncoderClassifier.from_hparams(source=source)

    def probabilities(self, samples: Samples) -> dict[str, float]:
        import torch

        logs, *_ = self._model.classify_batch(torch.from_numpy(samples)[None])
        codes = self._model.hparams.label_encoder.decode_ndim(range(logs.shape[-1]))
        return {
            str(code).partition(":")[0]: float(value) for code, value in zip(codes, logs[0].exp().tolist(), strict=True)
        }


BACKENDS: dict[str, Callable[[str], Any]] = {
    # The recogniser of the same name, so that the network is in memory once.
    "whisper": lambda argument: load_backend("asr", f"whisper:{argument}" if argument else "whisper"),
    "voxlingua": SpeechBrain,
}

"""Mean opinion scores without a reference: DNSMOS by its ONNX file, others by their libraries.

DNSMOS P.835 (Reddy et al., ICASSP 2022): signal, background and overall quality of 9 s at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ..audio_access import ANALYSIS_RATE, Samples
from .registry import onnx_session, package_file, require

_LENGTH = int(9.01 * ANALYSIS_RATE)
# The published mapping of the network's outputs to the scale of listeners, for personalised = False.
_SIGNAL = np.poly1d([-0.08397278, 1.22083953, 0.0052439])
_BACKGROUND = np.poly1d([-0.13166888, 1.60915514, -0.39604546])
_OVERALL = np.poly1d([-0.06766283, 1.11546468, 0.04602535])


class OpinionScore(Protocol):
    """Samples [S] at 16 kHz -> scores from 1 to 5 by name, "ovrl" among them."""

    def __call__(self, samples: Samples) -> Mapping[str, float]: ...


class Dnsmos:
    """One window of 9.01 s; a shorter piece is repeated, of a longer one the middle is heard."""

    def __init__(self) -> None:
        path = package_file("speechmos", "dnsmos_models", "sig_bak_ovr.onnx", install="speechmos")
        self._session = onnx_session(path)

    def __call__(self, samples: Samples) -> dict[str, float]:
        if not len(samples):
            return {"sig": 1.0, "bak": 1.0, "ovrl": 1.0}
        if len(samples) < _LENGTH:
            samples = np.tile(samples, -(-_LENGTH // len(samples)))
        start = (len(samples) - _LENGTH) // 2
        window = np.clip(samples[start : start + _LENGTH], -1.0, 1.0).astype(np.float32)
        signal, background, overall = self._session.run(None, {"input_1": window[None]})[0][0]
        return {
            "sig": float(_SIGNAL(signal)),
            "bak": float(_BACKGROUND(background)),
            "ovrl": float(_OVERALL(overall)),
        }


class DistillMos:
    """distillmos (MIT): its weights come with the package."""

    def __init__(self) -> None:
        self._model = require("distillmos", "the MOS backend distillmos", "distillmos").ConvTransformerSQAModel()
        self._model.eval()

    def __call__(self, samples: Samples) -> dict[str, float]:
        import torch

        with torch.inference_mode():
            return {"ovrl": float(self._model(torch.from_numpy(samples)[None])[0])}


class Utmos:
    """UTMOS22 strong by torch.hub (tarepan/SpeechMOS)."""

    def __init__(self) -> None:
        import torch

        self._model = torch.hub.load("tarepan/SpeechMOS:v1.2.0", "utmos22_strong", trust_repo=True)

    def __call__(self, samples: Samples) -> dict[str, float]:
        import torch

        with torch.inference_mode():
            return {"ovrl": float(self._model(torch.from_numpy(samples)[None], ANALYSIS_RATE)[0])}


BACKENDS: dict[str, Callable[[str], Any]] = {
    "dnsmos": lambda argument: Dnsmos(),
    "distillmos": lambda argument: DistillMos(),
    "utmos": lambda argument: Utmos(),
}

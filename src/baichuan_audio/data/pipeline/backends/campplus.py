"""CAM++, a network that tells speakers apart, with the weights for Chinese and English of 3D-Speaker.

Wang et al., "CAM++: A fast and efficient network for speaker verification using context-aware masking", Interspeech
2023, arXiv 2303.00332. Written after the paper; names of parameters are those of the published file,
`campplus_cn_en_common.pt`, on whose tensors it computes: nothing of it is trained here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..audio_access import ANALYSIS_RATE, Samples
from .registry import one_thread

NUM_MEL_BINS = 80
_WINDOW, _HOP, _FFT = 400, 160, 512
_PRE_EMPHASIS = 0.97
_LOWEST_HZ = 20.0
_FLOOR = float(np.finfo(np.float32).eps)
_STAGES = (("block1", 12, 1), ("block2", 24, 2), ("block3", 16, 2))  # name, layers, dilation
_CONTEXT_FRAMES = 100
_BATCH = 16


def filter_bank(samples: Tensor) -> Tensor:
    """Samples [B, S] at 16 kHz -> log mel energies [B, T, 80] as Kaldi computes them, less their mean over time."""
    frames = samples.unfold(-1, _WINDOW, _HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    shifted = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    # Kaldi's "povey" window.
    window = torch.hann_window(_WINDOW, periodic=False).pow(0.85)
    power = torch.fft.rfft((frames - _PRE_EMPHASIS * shifted) * window, _FFT).abs().square()
    energies = (power @ _mel_weights().T).clamp(min=_FLOOR).log()
    return energies - energies.mean(-2, keepdim=True)


@functools.cache
def _mel_weights() -> Tensor:
    """Triangles that are straight in mel, [80, 257]."""
    edges = torch.linspace(_mel(_LOWEST_HZ), _mel(ANALYSIS_RATE / 2), NUM_MEL_BINS + 2, dtype=torch.float64)
    bins = torch.tensor([_mel(bin * ANALYSIS_RATE / _FFT) for bin in range(_FFT // 2 + 1)], dtype=torch.float64)
    left, centre, right = (edges[start : start + NUM_MEL_BINS, None] for start in range(3))
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    with torch.inference_mode(False):  # whoever asks first
        return torch.minimum(rising, falling).clamp(min=0).float()


def _mel(hz: float) -> float:
    return 1127.0 * float(np.log1p(hz / 700.0))


class CamPlusPlus:
    """The network. `weights`: the tensors of the published file."""

    window_s = 1.6

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    @torch.inference_mode()
    def __call__(self, windows: Sequence[Samples]) -> NDArray[np.float32]:
        """Windows of speech at 16 kHz, all of one length -> embeddings of unit length [N, 192]."""
        if not len(windows):
            return np.zeros((0, 192), np.float32)
        batches = torch.from_numpy(np.stack(windows).astype(np.float32)).split(_BATCH)
        with one_thread():
            return torch.cat([self._embed(batch) for batch in batches]).numpy()

    def _embed(self, samples: Tensor) -> Tensor:
        frames = self._head(filter_bank(samples).transpose(1, 2)[:, None])
        frames = self._normalised(self._convolved(frames, "xvector.tdnn.linear", stride=2), "xvector.tdnn.nonlinear")
        for number, (name, layers, dilation) in enumerate(_STAGES, 1):
            for layer in range(1, layers + 1):
                new = self._dense_layer(frames, f"xvector.{name}.tdnnd{layer}", dilation)
                frames = torch.cat([frames, new], dim=1)
            frames = self._normalised(frames, f"xvector.transit{number}.nonlinear")
            frames = self._convolved(frames, f"xvector.transit{number}.linear")
        frames = self._normalised(frames, "xvector.out_nonlinear")
        pooled = torch.cat([frames.mean(-1), frames.std(-1)], dim=1)
        dense = functional.linear(pooled, self._weights["xvector.dense.linear.weight"][..., 0])
        return functional.normalize(self._batch_norm(dense, "xvector.dense.nonlinear.batchnorm"), dim=1)

    def _head(self, image: Tensor) -> Tensor:
        """[B, 1, 80, T] -> [B, 320, T]: residual convolutions that make an eighth of the mel bins."""
        image = self._convolved_2d(image, "head", 1, (1, 1))
        for layer in ("layer1", "layer2"):
            for block, stride in ((0, 2), (1, 1)):
                name = f"head.{layer}.{block}"
                inner = self._convolved_2d(image, name, 1, (stride, 1))
                inner = self._convolved_2d(inner, name, 2, (1, 1), relu=False)
                if f"{name}.shortcut.0.weight" in self._weights:
                    weight = self._weights[f"{name}.shortcut.0.weight"]
                    image = self._batch_norm(functional.conv2d(image, weight, stride=(stride, 1)), f"{name}.shortcut.1")
                image = functional.relu(inner + image)
        image = self._convolved_2d(image, "head", 2, (2, 1))
        return image.flatten(1, 2)

    def _dense_layer(self, frames: Tensor, name: str, dilation: int) -> Tensor:
        """Features of the frames' neighbourhood, weighted by a mask from the context: its mean over all time and over
        stretches of 100 frames."""
        narrow = self._convolved(self._normalised(frames, f"{name}.nonlinear1"), f"{name}.linear1")
        narrow = self._normalised(narrow, f"{name}.nonlinear2")
        local = self._convolved(narrow, f"{name}.cam_layer.linear_local", dilation=dilation)
        stretches = functional.avg_pool1d(narrow, _CONTEXT_FRAMES, _CONTEXT_FRAMES, ceil_mode=True)
        context = (
            narrow.mean(-1, keepdim=True) + stretches.repeat_interleave(_CONTEXT_FRAMES, -1)[..., : local.shape[-1]]
        )
        mask = functional.relu(self._convolved(context, f"{name}.cam_layer.linear1"))
        return local * torch.sigmoid(self._convolved(mask, f"{name}.cam_layer.linear2"))

    def _convolved(self, frames: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        padding = (weight.shape[-1] - 1) // 2 * dilation
        return functional.conv1d(frames, weight, bias, stride, padding, dilation)

    def _convolved_2d(
        self, image: Tensor, name: str, number: int, stride: tuple[int, int], relu: bool = True
    ) -> Tensor:
        image = functional.conv2d(image, self._weights[f"{name}.conv{number}.weight"], stride=stride, padding=1)
        image = self._batch_norm(image, f"{name}.bn{number}")
        return functional.relu(image) if relu else image

    def _normalised(self, frames: Tensor, name: str) -> Tensor:
        return functional.relu(self._batch_norm(frames, f"{name}.batchnorm"))

    def _batch_norm(self, values: Tensor, name: str) -> Tensor:
        w = self._weights
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return functional.batch_norm(values, mean, variance, w.get(f"{name}.weight"), w.get(f"{name}.bias"))

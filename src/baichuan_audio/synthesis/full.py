"""A whole segment at once: the obvious path, which streams are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import segment_noise
from .segment_stream import SynthesisModel


@torch.no_grad()
def synthesize(model: SynthesisModel, hidden: Tensor) -> Tensor:
    """Hidden frames [L, D] of one segment -> waveform [S] float32.

    The flow's noise is always the same, and so is the vocoder's: the same codes give the same sound.
    """
    mu = model.flow.prenet(hidden)
    noise = segment_noise(*mu.shape).T.to(mu.device)
    mel = model.flow.sample(mu, noise=noise).float()
    waveform: Tensor = model.vocoder(mel[None])[0]
    return waveform.float()

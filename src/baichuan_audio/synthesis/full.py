"""Synthesis of a whole segment: the reference that streams are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import segment_noise
from .segment_stream import SynthesisModel


@torch.no_grad()
def synthesize(model: SynthesisModel, hidden: Tensor) -> Tensor:
    """Hidden frames [L, D] of one segment -> waveform [S] float32.

    The noise of flow and vocoder is fixed: the same codes give the same waveform.
    """
    mu = model.flow.prenet(hidden)
    noise = segment_noise(*mu.shape).T.to(mu.device)
    mel = model.flow.sample(mu, noise=noise).float()
    waveform: Tensor = model.vocoder(mel[None])[0]
    return waveform.float()

"""Losses of vocoder and discriminators, each this process's part of a mean over the rows of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...vocoder.discriminators import DiscriminatorOutput
from ..common.distributed.world import ALONE, World


def discriminator_loss(
    real: list[DiscriminatorOutput], generated: list[DiscriminatorOutput], run: World = ALONE
) -> Tensor:
    """Hinge loss: real scores above 1, generated ones below -1. Mean over discriminators."""
    losses = [
        run.mean_part(F.relu(1 - score_real).sum() + F.relu(1 + score_generated).sum(), score_real.numel())
        for (score_real, _), (score_generated, _) in zip(real, generated, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(generated: list[DiscriminatorOutput], run: World = ALONE) -> Tensor:
    """Hinge loss of the vocoder. Mean over discriminators."""
    return torch.stack([run.mean_part(F.relu(1 - score).sum(), score.numel()) for score, _ in generated]).mean()


def feature_matching_loss(
    real: list[DiscriminatorOutput], generated: list[DiscriminatorOutput], run: World = ALONE
) -> Tensor:
    """Mean L1 between hidden maps of real and generated waveforms, relative to the magnitude of the real map."""
    losses = []
    for (_, maps_real), (_, maps_generated) in zip(real, generated, strict=True):
        for a, b in zip(maps_real, maps_generated, strict=True):
            magnitude = (run.total(a.detach().abs().sum()) / run.total(a.numel())).clamp(min=1e-3)
            losses.append(run.mean_part((a.detach() - b).abs().sum(), a.numel()) / magnitude.to(b))
    return torch.stack(losses).mean()

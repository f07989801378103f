"""How far quantised weights move what the model says."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import BaichuanAudio

_POSITIONS, _FRAMES = 128, 64


@torch.inference_mode()
def parity(full: BaichuanAudio, other: BaichuanAudio) -> dict[str, float]:
    """`other` beside `full` on the same random prompt and frames, each step from the same past.

    *_error: relative L2 error of the logits; *_agreement: share of steps whose likeliest id, or code, is the same.
    """
    generator = torch.Generator().manual_seed(0)
    device = full.language_model.norm.weight.device
    ids = torch.randint(3, 200, (1, _POSITIONS), generator=generator).to(device)
    hidden, logits = full.language_model(ids)
    other_hidden, other_logits = other.language_model(ids)
    sizes = full.audio_head.codebook_sizes
    codes = torch.stack([torch.randint(0, size, (_FRAMES,), generator=generator) for size in sizes], dim=1).to(device)
    # without the end mark, which a benchmark bars
    theirs = [each[:, :-1] for each in full.audio_head.logits(hidden[0, -_FRAMES:], codes)]
    mine = [each[:, :-1] for each in other.audio_head.logits(other_hidden[0, -_FRAMES:], codes)]
    return {
        "text_error": _error([other_logits], [logits]),
        "text_agreement": _agreement([other_logits], [logits]),
        "code_error": _error(mine, theirs),
        "code_agreement": _agreement(mine, theirs),
    }


def _error(mine: list[Tensor], theirs: list[Tensor]) -> float:
    difference = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(mine, theirs, strict=True))
    return float((difference / sum(float(each.float().square().sum()) for each in theirs)) ** 0.5)


def _agreement(mine: list[Tensor], theirs: list[Tensor]) -> float:
    same = [(a.argmax(-1) == b.argmax(-1)).float().mean() for a, b in zip(mine, theirs, strict=True)]
    return float(torch.stack(same).mean())

"""The noise of the flow: a function of the position in the segment, so streamed and full synthesis agree."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_SEED = 0
_LENGTH_STEP = 512  # frames; a table is made for a few lengths only


def segment_noise(frames: int, mel_bins: int) -> Tensor:
    """Standard normal noise [frames, mel_bins] of a segment, on the CPU; a prefix of that of any longer segment."""
    return _table(-(-frames // _LENGTH_STEP) * _LENGTH_STEP, mel_bins)[:frames]


@functools.lru_cache(maxsize=8)
def _table(frames: int, mel_bins: int) -> Tensor:
    # One call for each block of 512 rows: how a generator fills a tensor may depend on its size.
    generator = torch.Generator().manual_seed(_SEED)
    blocks = [torch.randn(_LENGTH_STEP, mel_bins, generator=generator) for _ in range(frames // _LENGTH_STEP)]
    return torch.cat(blocks)

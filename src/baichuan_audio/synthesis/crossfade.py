"""Segments of sound, piece by piece, joined by a linear cross-fade."""

from __future__ import annotations

import torch
from torch import Tensor

from ..audio.waveform import crossfade
from ..audio_tokenizer.model import CROSSFADE_MS

_SENTENCE_PAUSE_MS = 400  # a reader's pause, and one at which `audio.find_speech` divides what was read


def sentence_pause(sample_rate: int) -> Tensor:
    """The silence [S] between two sentences that are synthesised apart, beside the little at their own ends."""
    return torch.zeros(sample_rate * _SENTENCE_PAUSE_MS // 1000)


class Joiner:
    """Lays segments end to end with a cross-fade of 10 ms while they come: what may still be faded is held back.

    The joined output is that of `audio.waveform.crossfade` from segment to segment, however the pieces are cut.
    """

    def __init__(self, sample_rate: int) -> None:
        self._overlap = sample_rate * CROSSFADE_MS // 1000
        self._before = torch.zeros(0)  # the end of the segment before, not yet faded into this one
        self._open = torch.zeros(0)  # of this segment, not yet given out
        self._begun = False

    def push(self, waveform: Tensor) -> Tensor:
        """The segment's next samples [S] -> the samples that are now certain, float32 on the CPU."""
        self._open = torch.cat([self._open, waveform.detach().float().cpu()])
        self._begun = self._begun or bool(waveform.numel())
        if len(self._open) < self._overlap:
            return self._open[:0]  # its fade needs more
        return self._give()

    def end_segment(self) -> Tensor:
        """What follows belongs to the next segment. A segment without samples is none."""
        if not self._begun:
            return self._open[:0]
        certain = self._give()
        self._before, self._open, self._begun = self._open, self._open[:0], False
        return certain

    def flush(self) -> Tensor:
        """The last samples; the joiner is then as new."""
        certain = torch.cat([self.end_segment(), self._before])
        self._before = self._open
        return certain

    def _give(self) -> Tensor:
        self._open = crossfade(self._before, self._open, self._overlap)
        self._before = self._before[:0]
        certain = max(0, len(self._open) - self._overlap)
        given, self._open = self._open[:certain], self._open[certain:]
        return given

"""Joins audio segments by a linear cross-fade, streamed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..audio.waveform import crossfade
from ..audio_tokenizer.model import CROSSFADE_MS

_SENTENCE_PAUSE_MS = 400  # a reader's pause, and one at which `audio.find_speech` divides what was read


def sentence_pause(sample_rate: int) -> Tensor:
    """The silence [S] between two sentences that are synthesized separately."""
    return torch.zeros(sample_rate * _SENTENCE_PAUSE_MS // 1000)


class Crossfader:
    """Joins segments with a cross-fade of 10 ms, streamed: samples that may still be faded are withheld.

    The output equals that of `audio.waveform.crossfade` from segment to segment, for any chunking.
    """

    def __init__(self, sample_rate: int) -> None:
        self._overlap = sample_rate * CROSSFADE_MS // 1000
        self._before = torch.zeros(0)  # the end of the previous segment, not yet faded into this one
        self._open = torch.zeros(0)  # of this segment, not yet returned
        self._begun = False

    def push(self, waveform: Tensor) -> Tensor:
        """The next samples [S] of the segment -> the samples that are final, float32 on the CPU."""
        self._open = torch.cat([self._open, waveform.detach().float().cpu()])
        self._begun = self._begun or bool(waveform.numel())
        if len(self._open) < self._overlap:
            return self._open[:0]  # too short to fade
        return self._final_samples()

    def end_segment(self) -> Tensor:
        """End the segment -> its final samples. A segment without samples is ignored."""
        if not self._begun:
            return self._open[:0]
        final = self._final_samples()
        self._before, self._open, self._begun = self._open, self._open[:0], False
        return final

    def flush(self) -> Tensor:
        """The last samples; resets the crossfader."""
        final = torch.cat([self.end_segment(), self._before])
        self._before = self._open
        return final

    def _final_samples(self) -> Tensor:
        self._open = crossfade(self._before, self._open, self._overlap)
        self._before = self._before[:0]
        final = max(0, len(self._open) - self._overlap)
        result, self._open = self._open[:final], self._open[final:]
        return result

"""Losses on the text that keep the codes tied to what was said.

`phonetic_loss`: connectionist temporal classification (Graves et al. 2006) of the spoken symbols, four positions to a
code frame; it converges in minutes on small data, where a language model's loss needs hours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.phonetics import SYMBOLS, phonetic_symbols

POSITIONS_PER_FRAME = 4


class PhoneticHead(nn.Module):
    """Vectors [B, T, W] -> log-probabilities of the phonetic symbols [B, 4 T, V]; used in training only."""

    def __init__(self, vector_width: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(vector_width, POSITIONS_PER_FRAME * width)
        self.mix = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, len(SYMBOLS))

    def forward(self, vectors: Tensor) -> Tensor:
        x = F.gelu(self.spread(vectors).unflatten(-1, (POSITIONS_PER_FRAME, -1)).flatten(1, 2))
        x = F.gelu(self.mix(x.transpose(1, 2)).transpose(1, 2))
        return self.out(x).float().log_softmax(dim=-1)


def phonetic_loss(
    head: PhoneticHead, vectors: Tensor, lengths: Tensor, transcripts: Sequence[str | None]
) -> Tensor | None:
    """Loss per symbol over the rows that have a transcript (None when no row has): vectors [B, T, W], lengths [B]."""
    targets = [phonetic_symbols(text) if text else [] for text in transcripts]
    rows = [i for i, target in enumerate(targets) if target]
    if not rows:
        return None
    log_probabilities = head(vectors[rows]).transpose(0, 1)
    return F.ctc_loss(
        log_probabilities,
        torch.tensor([symbol for i in rows for symbol in targets[i]], device=vectors.device),
        lengths[rows] * POSITIONS_PER_FRAME,
        torch.tensor([len(targets[i]) for i in rows], device=vectors.device),
        zero_infinity=True,
    )


def read_phonetic(log_probabilities: Tensor) -> list[int]:
    """Best path of [T, V] as indices into SYMBOLS: repeats merged, blanks dropped."""
    return [i for i in torch.unique_consecutive(log_probabilities.argmax(dim=-1)).tolist() if i]

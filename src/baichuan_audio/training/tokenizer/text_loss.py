"""Text losses of the tokenizer, which keep the linguistic content in the codes.

`frame_loss`: the phoneme at each position, where a forced alignment gives it; it falls from the first steps on.
`phonetic_loss`: connectionist temporal classification (Graves et al. 2006) of the spoken symbols, four positions to a
code frame; it converges in minutes on small data, where a language model's loss needs hours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.alignment.phone_alignment import PHONES_PER_FRAME
from ...text.phonemes import SYMBOLS, phonetic_symbols
from ..common.distributed.world import ALONE, World


class PhoneticHead(nn.Module):
    """Vectors [B, T, W] -> log-probabilities for CTC [B, 4 T, V], four positions a vector; used in training only.

    `symbols(hidden)` gives the same, and `frames(hidden)` the logits of the phoneme at each position, both from one
    `hidden(vectors)`.
    """

    def __init__(self, vector_width: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(vector_width, PHONES_PER_FRAME * width)
        self.mix = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, len(SYMBOLS))
        self.frames = nn.Linear(width, len(SYMBOLS))

    def hidden(self, vectors: Tensor) -> Tensor:
        """vectors [B, T, W] -> [B, 4 T, width], what `out` and `frames` read."""
        x = F.gelu(self.spread(vectors).unflatten(-1, (PHONES_PER_FRAME, -1)).flatten(1, 2))
        return F.gelu(self.mix(x.transpose(1, 2)).transpose(1, 2))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.symbols(self.hidden(vectors))

    def symbols(self, hidden: Tensor) -> Tensor:
        """hidden [B, N, width] -> log-probabilities [B, N, V], blank included."""
        return self.out(hidden).float().log_softmax(dim=-1)


def frame_loss(head: PhoneticHead, hidden: Tensor, labels: Tensor, run: World = ALONE) -> Tensor | None:
    """Cross-entropy of hidden [B, N, width] against labels [B, N] (-100 where unknown): this process's part of the
    mean, None where it knows none."""
    known = labels >= 0
    count = run.total(known.sum())
    if not bool(known.any()):
        return None
    return F.cross_entropy(head.frames(hidden[known]).float(), labels[known], reduction="sum") / count.float()


def phonetic_loss(
    head: PhoneticHead, hidden: Tensor, lengths: Tensor, transcripts: Sequence[str | None], run: World = ALONE
) -> Tensor | None:
    """Loss per symbol over the rows that have a transcript, this process's part of the mean (None when no row has):
    hidden [B, 4 T, width] of vectors of which `lengths` [B] are valid.
    """
    targets = [phonetic_symbols(text) if text else [] for text in transcripts]
    rows = [i for i, target in enumerate(targets) if target]
    count = run.total(len(rows))
    if not rows:
        return None
    log_probabilities = head.symbols(hidden[rows]).transpose(0, 1)
    target_lengths = torch.tensor([len(targets[i]) for i in rows], device=hidden.device)
    nll = F.ctc_loss(
        log_probabilities,
        torch.tensor([symbol for i in rows for symbol in targets[i]], device=hidden.device),
        lengths[rows] * PHONES_PER_FRAME,
        target_lengths,
        reduction="none",
        zero_infinity=True,
    )
    return (nll / target_lengths).sum() / count.to(nll)


def read_phonetic(log_probabilities: Tensor) -> list[int]:
    """Best path of [T, V] as indices into SYMBOLS: repeats merged, blanks dropped."""
    return [i for i in torch.unique_consecutive(log_probabilities.argmax(dim=-1)).tolist() if i]


def phoneme_errors(log_probabilities: Tensor, symbols: Sequence[int]) -> int:
    """Edit distance between the best path of [T, V] and these symbols."""
    return edit_distance(read_phonetic(log_probabilities), symbols)


def edit_distance(first: Sequence[object], second: Sequence[object]) -> int:
    """Levenshtein distance between two sequences."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]

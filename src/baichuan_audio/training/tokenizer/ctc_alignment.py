"""Phoneme alignments of clips by the CTC output of a tokenizer that was trained for a short while.

pocketsphinx aligns English only. For other languages the most probable path of the given text is read off the phonetic
head (Viterbi; Graves et al. 2006), as speech recognisers are bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...audio_tokenizer import AudioTokenizer
from ...data.alignment.phone_alignment import FRAMES_PER_SECOND, PHONES_PER_FRAME, aligned_clips, extend_alignments
from ...data.alignment.viterbi import ctc_path
from ...data.store.manifest import Clip, ClipStore
from ...layers.precision import autocast
from ...text.phonemes import SYMBOLS, phonetic_symbols
from ..common.checkpointing import load_training_state
from .batch import prepare
from .clip_batches import load_clips
from .recipe import TokenizerRecipe
from .text_loss import PhoneticHead
from .train import build

_SILENCE, _GAP = 0, SYMBOLS.index(" ")
_MAX_HALF_WIDTH = 5.0  # positions of 20 ms from a phoneme's centre to its begin or end
_EDGE = 4.0  # the same for the first phoneme's begin and the last one's end
_BATCH = 16
_MAX_SECONDS = 8.0


def as_alignment(symbols: Sequence[int], centres: np.ndarray, length: int) -> tuple[list[int], list[int]]:
    """Symbols with `centres` [N] in positions of 20 ms, `length` in all -> symbols, their ends in frames of 10 ms.

    Phonemes meet half-way; where they are far apart, silence lies between them. Word gaps are dropped.
    """
    kept = [(symbol, float(centre)) for symbol, centre in zip(symbols, centres, strict=True) if symbol != _GAP]
    segments: list[tuple[int, float]] = []
    end = 0.0
    for index, (symbol, centre) in enumerate(kept):
        before = (kept[index - 1][1] + centre) / 2 if index else centre - _EDGE
        after = (kept[index + 1][1] + centre) / 2 if index + 1 < len(kept) else centre + _EDGE
        begin = max(centre - _MAX_HALF_WIDTH, before)
        if begin > end + 0.75:
            segments.append((_SILENCE, begin))
        end = min(centre + _MAX_HALF_WIDTH, after)
        segments.append((symbol, end))
    if end < length:
        segments.append((_SILENCE, float(length)))
    scale = FRAMES_PER_SECOND / 50
    return [symbol for symbol, _ in segments], [round(scale * end) for _, end in segments]


def add_alignments(
    root: str | Path,
    recipe: TokenizerRecipe,
    trained: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Align every transcribed clip of a clip store that has no alignment yet; returns how many. `trained` is the output
    folder of a tokenizer's training with `recipe`."""
    tokenizer, head = build(recipe)
    load_training_state(trained, {"tokenizer": tokenizer, "phonetic_head": head}, {})
    store, known = ClipStore(root), aligned_clips(root)
    clips = [c for c in store.clips if c.transcript and c.id not in known and 0.35 < c.seconds < _MAX_SECONDS]
    clips.sort(key=lambda clip: clip.samples)

    def rows() -> Iterator[tuple[str, list[int], list[int]]]:
        for start in range(0, len(clips), _BATCH):
            yield from _align(store, clips[start : start + _BATCH], tokenizer, head)
            progress(min(start + _BATCH, len(clips)), len(clips))

    return extend_alignments(root, rows())


@torch.no_grad()
def _align(
    store: ClipStore, clips: Sequence[Clip], tokenizer: AudioTokenizer, head: PhoneticHead
) -> Iterator[tuple[str, list[int], list[int]]]:
    batch = prepare(load_clips(store, clips), tokenizer, None, (0, 0))
    lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
    with autocast("cpu"):
        vectors = tokenizer.bridge.pooled(tokenizer.encoder(batch.log_mel, batch.mel_lengths), lengths)
        log_probs = head(vectors).double().numpy()
    counts = (tokenizer.bridge.output_lengths(lengths) * PHONES_PER_FRAME).tolist()
    for clip, log_probabilities, count in zip(clips, log_probs, counts, strict=True):
        symbols = phonetic_symbols(clip.transcript or "")
        path = ctc_path(log_probabilities[:count], symbols)
        if path is not None:
            yield (clip.id, *as_alignment(symbols, (path[0] + path[1]) / 2, count))

"""When each sound of a clip is said, from a tokenizer that hears a little already.

pocketsphinx aligns English only. For the rest, a tokenizer trained for a short while reads the most probable path of
the given text off its own CTC output (Viterbi; Graves et al. 2006), as speech recognisers have long been bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...audio_tokenizer import AudioTokenizer
from ...data.alignment.phone_alignment import FRAMES_PER_SECOND, PLACES, aligned_clips, extend_alignments
from ...data.alignment.viterbi import ctc_path
from ...data.store.manifest import Clip, ClipStore
from ...layers.precision import autocast
from ...text.phonemes import SYMBOLS, phonetic_symbols
from ..common.checkpointing import load_training_state
from ..common.clip_batches import load_clips
from .batch import prepare
from .recipe import TokenizerRecipe
from .text_loss import PhoneticHead
from .train import build

_SILENCE, _GAP = 0, SYMBOLS.index(" ")
_REACH = 5.0  # positions of 20 ms that a sound reaches from where it is heard, at most
_EDGE = 4.0  # the same for the first sound's beginning and the last one's end
_BATCH = 16
_LONGEST = 8.0  # seconds


def best_path(log_probabilities: np.ndarray, symbols: Sequence[int]) -> np.ndarray | None:
    """Where each of `symbols` [N] is heard in log-probabilities [T, V] (blank 0); None if T is too short."""
    path = ctc_path(log_probabilities, symbols)
    return None if path is None else (path[0] + path[1]) / 2


def as_alignment(symbols: Sequence[int], centres: np.ndarray, length: int) -> tuple[list[int], list[int]]:
    """Sounds heard at `centres` [N], in positions of 20 ms, of `length` in all -> symbols, ends in frames of 10 ms.

    Sounds meet half-way; where that is far, silence stands between them. Gaps between words are no sound.
    """
    kept = [(symbol, float(centre)) for symbol, centre in zip(symbols, centres, strict=True) if symbol != _GAP]
    found: list[tuple[int, float]] = []
    end = 0.0
    for place, (symbol, centre) in enumerate(kept):
        before = (kept[place - 1][1] + centre) / 2 if place else centre - _EDGE
        after = (kept[place + 1][1] + centre) / 2 if place + 1 < len(kept) else centre + _EDGE
        begin = max(centre - _REACH, before)
        if begin > end + 0.75:
            found.append((_SILENCE, begin))
        end = min(centre + _REACH, after)
        found.append((symbol, end))
    if end < length:
        found.append((_SILENCE, float(length)))
    scale = FRAMES_PER_SECOND / 50
    return [symbol for symbol, _ in found], [round(scale * end) for _, end in found]


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
    clips = [c for c in store.clips if c.transcript and c.id not in known and 0.35 < c.seconds < _LONGEST]
    clips.sort(key=lambda clip: clip.samples)

    def found() -> Iterator[tuple[str, list[int], list[int]]]:
        for start in range(0, len(clips), _BATCH):
            yield from _align(store, clips[start : start + _BATCH], tokenizer, head)
            progress(min(start + _BATCH, len(clips)), len(clips))

    return extend_alignments(root, found())


@torch.no_grad()
def _align(
    store: ClipStore, clips: Sequence[Clip], tokenizer: AudioTokenizer, head: PhoneticHead
) -> Iterator[tuple[str, list[int], list[int]]]:
    batch = prepare(load_clips(store, clips), tokenizer, None, (0, 0))
    lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
    with autocast("cpu"):
        vectors = tokenizer.bridge.pooled(tokenizer.encoder(batch.log_mel, batch.mel_lengths), lengths)
        heard = head(vectors).double().numpy()
    counts = (tokenizer.bridge.output_lengths(lengths) * PLACES).tolist()
    for clip, log_probabilities, count in zip(clips, heard, counts, strict=True):
        symbols = phonetic_symbols(clip.transcript or "")
        centres = best_path(log_probabilities[:count], symbols)
        if centres is not None:
            yield (clip.id, *as_alignment(symbols, centres, count))

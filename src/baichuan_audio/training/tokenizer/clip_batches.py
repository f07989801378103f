"""Batches of whole clips for the audio tokenizer: what step n holds is a pure function of (seed, n)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.mixture.weighted_sampling import WeightedItems
from ...data.store.manifest import Clip, ClipStore
from ..common.clip_sampling import clip_weights
from .recipe import TokenizerRecipe

_BUCKET_EDGES_S = (0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.6, 4.4, 5.4, 6.6, 8.0)


@dataclass(frozen=True)
class ClipBatch:
    """Waveforms [B, S] at 24 kHz, zero-padded, with what belongs to them."""

    waveforms: Tensor
    samples: Tensor
    """[B] valid samples."""
    transcripts: list[str | None]
    """None where unknown or cropped."""
    texts: list[str | None]
    """As written, with capitals and punctuation; the transcript where only that is known, None where it is None."""
    languages: list[str]
    ids: list[str]
    starts: list[int]
    """First sample of each crop in its clip."""


class ClipSampler:
    """Batches of clips of similar length, drawn with replacement, of about the recipe's `batch_seconds` of audio.

    Raises DataError where no clip of the split may be drawn.
    """

    def __init__(self, store: ClipStore, recipe: TokenizerRecipe, seed: int, split: str = "train") -> None:
        self.store, self.recipe, self.seed = store, recipe, seed
        clips = [clip for clip in store.select(split=split) if clip.seconds >= recipe.min_seconds]
        seconds = np.array([min(clip.seconds, recipe.crop_seconds) for clip in clips])
        weights = clip_weights(clips, seconds.tolist(), recipe.source_weights)
        buckets = np.searchsorted(_BUCKET_EDGES_S, seconds)
        members = [np.flatnonzero((buckets == b) & (weights > 0)) for b in range(len(_BUCKET_EDGES_S) + 1)]
        items = [WeightedItems([clips[i] for i in indices], weights[indices]) for indices in members]
        self._buckets = WeightedItems(items, [float(weights[indices].sum()) for indices in members])

    def batch(self, step: int) -> ClipBatch:
        """The clips of one step."""
        random = np.random.default_rng((self.seed, step))
        bucket = self._buckets.pick(random)
        max_seconds = max(min(clip.seconds, self.recipe.crop_seconds) for clip in bucket.items)
        clips = [bucket.pick(random) for _ in range(max(1, int(self.recipe.batch_seconds / max_seconds)))]
        return load_clips(self.store, clips, self.recipe.crop_seconds, [self._start(clip, random) for clip in clips])

    def _start(self, clip: Clip, random: np.random.Generator) -> int:
        left = clip.samples - int(self.recipe.crop_seconds * clip.sample_rate)
        return int(random.integers(left)) if left > 0 else 0


def load_clips(
    store: ClipStore, clips: Sequence[Clip], max_seconds: float = math.inf, starts: Sequence[int] = ()
) -> ClipBatch:
    """Clips as one batch; of one above `max_seconds` that much from its sample `starts`, without its transcript."""
    starts = starts or [0] * len(clips)
    waveforms: list[Tensor] = []
    transcripts: list[str | None] = []
    texts: list[str | None] = []
    for clip, start in zip(clips, starts, strict=True):
        cropped = clip.samples > max_seconds * clip.sample_rate
        limit = int(max_seconds * clip.sample_rate) if cropped else clip.samples
        waveforms.append(store.waveform(clip, start, limit) if cropped else store.waveform(clip))
        transcripts.append(None if cropped else clip.transcript)
        texts.append(None if cropped else clip.text or clip.transcript)
    return ClipBatch(
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(w) for w in waveforms]),
        transcripts,
        texts,
        [c.language for c in clips],
        [c.id for c in clips],
        list(starts),
    )

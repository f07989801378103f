"""Batches of clips for the audio stages: what step n holds follows from (seed, n) alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.store.manifest import Clip, ClipStore
from ...errors import TrainingError


@dataclass(frozen=True)
class ClipRecipe:
    """Which clips a stage sees."""

    corpus: str
    """Folder of a clip store."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of the audio drawn from each kind ("answer", "question", "read") or source ("librispeech"); a group that
    is not named is not drawn. Empty: all clips alike."""
    seconds_per_step: float = 32.0
    max_seconds: float = 8.0
    """Longer clips are cropped to this length (their transcript is then not used)."""
    min_seconds: float = 0.3


@dataclass(frozen=True)
class ClipBatch:
    """Waveforms [B, S] at 24 kHz, zero-padded, with what belongs to them."""

    waveforms: Tensor
    samples: Tensor
    """[B] valid samples."""
    transcripts: list[str | None]
    """None where unknown or cropped."""
    languages: list[str]
    ids: list[str]
    starts: list[int]
    """First sample of each crop in its clip."""


class ClipSampler:
    """Draws clips of similar length, with replacement, up to `seconds_per_step`."""

    _EDGES = (0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.6, 4.4, 5.4, 6.6, 8.0)

    def __init__(self, store: ClipStore, recipe: ClipRecipe, seed: int, split: str = "train") -> None:
        self.store, self.recipe, self.seed = store, recipe, seed
        clips = [c for c in store.select(split=split) if c.seconds >= recipe.min_seconds]
        groups = [_group(clip, recipe.weights) for clip in clips]
        kept = [(clip, group) for clip, group in zip(clips, groups, strict=True) if group is not None]
        if not kept:
            raise TrainingError(f"{recipe.corpus}: no clip of the split '{split}' is in the groups of the recipe.")
        self.clips = [clip for clip, _ in kept]
        seconds = np.array([min(c.seconds, recipe.max_seconds) for c in self.clips])
        totals: dict[str, float] = {}
        for (_, group), length in zip(kept, seconds, strict=True):
            totals[group or ""] = totals.get(group or "", 0.0) + float(length)
        weights = recipe.weights or {"": 1.0}
        share = np.array([weights.get(g or "", 1.0) / totals[g or ""] for _, g in kept])  # per second of the clip
        buckets = np.searchsorted(self._EDGES, seconds)
        self._members = [np.flatnonzero(buckets == b) for b in range(len(self._EDGES) + 1)]
        mass = np.array([float((share[m] * seconds[m]).sum()) for m in self._members])
        self._bucket_share = mass / mass.sum()
        self._member_share = [share[m] / share[m].sum() if len(m) else share[m] for m in self._members]

    def batch(self, step: int) -> ClipBatch:
        """The clips of one step."""
        random = np.random.default_rng((self.seed, step))
        bucket = int(random.choice(len(self._members), p=self._bucket_share))
        members = self._members[bucket]
        longest = max(min(self.clips[i].seconds, self.recipe.max_seconds) for i in members)
        count = max(1, int(self.recipe.seconds_per_step / longest))
        chosen = random.choice(members, size=count, p=self._member_share[bucket])
        return self._load([self.clips[i] for i in chosen], random)

    def _load(self, clips: Sequence[Clip], random: np.random.Generator) -> ClipBatch:
        def crop(clip: Clip) -> int:
            left = clip.samples - int(self.recipe.max_seconds * clip.sample_rate)
            return int(random.integers(left)) if left > 0 else 0

        return load_clips(self.store, clips, self.recipe.max_seconds, [crop(clip) for clip in clips])


def load_clips(
    store: ClipStore, clips: Sequence[Clip], max_seconds: float = math.inf, starts: Sequence[int] = ()
) -> ClipBatch:
    """Clips as one batch; of one above `max_seconds` that much from its sample `starts`, without its transcript."""
    starts = starts or [0] * len(clips)
    waveforms: list[Tensor] = []
    transcripts: list[str | None] = []
    for clip, start in zip(clips, starts, strict=True):
        cropped = clip.samples > max_seconds * clip.sample_rate
        limit = int(max_seconds * clip.sample_rate) if cropped else clip.samples
        waveforms.append(store.waveform(clip, start, limit) if cropped else store.waveform(clip))
        transcripts.append(None if cropped else clip.transcript)
    return ClipBatch(
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(w) for w in waveforms]),
        transcripts,
        [c.language for c in clips],
        [c.id for c in clips],
        list(starts),
    )


def _group(clip: Clip, weights: Mapping[str, float]) -> str | None:
    if not weights:
        return ""
    for name in (clip.source, clip.kind, clip.speaker):
        if name in weights:
            return name
    return None

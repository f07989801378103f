"""How much of a benchmark a model may have been trained on: 8-grams of texts, and fingerprints of sounds.

A fingerprint is 32 bits for every 11.6 ms: whether the difference of neighbouring bands between 300 and 2000 Hz grows
from one frame to the next (Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002). It survives
compression, noise and other levels, so a test recording is detected within a longer training sample too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from ...audio.reading import read_audio
from ...data.store.atomic import file_digest, text_digest
from ...data.store.shards import ShardReader
from ...errors import AudioError, ConfigError
from ...text.language import language_of
from ..systems import ItemFailure, item_waveform
from ..text import tokens
from .items import Item
from .registry import SUITES

NGRAM = 8
_RATE = 8_000
_FRAME, _HOP, _FFT = 2_960, 93, 4_096  # 370 ms, 11.6 ms
_BANDS = np.geomspace(300, 2_000, 34)
_MAX_ERRORS = 0.3  # share of bits of one sound that may differ; unrelated ones differ in a half
_MIN_FRAMES = 86  # 1 s
_MAX_PLACES = 200  # frames that occur more often, such as silence, locate nothing
_CANDIDATES = 8
_NO_TEXT = {"path", "id", "license", "source", "speaker", "language", "audio", "split", "kind"}
Fingerprint = NDArray[np.uint32]


@dataclass
class TrainingIndex:
    """What was trained on: hashes of all 8-grams, and all fingerprints one after the other.

    digest: of the files that it was made from.
    """

    ngrams: set[int] = field(default_factory=set)
    frames: Fingerprint = field(default_factory=lambda: np.zeros(0, np.uint32))
    digest: str = ""

    def __post_init__(self) -> None:
        self._order = np.argsort(self.frames, kind="stable")
        self._sorted = self.frames[self._order]

    def text_share(self, texts: Sequence[str]) -> float:
        """The share of the texts' 8-grams that were trained on; a shorter text is one n-gram."""
        grams = {gram for text in texts for gram in ngram_hashes(text)}
        return sum(gram in self.ngrams for gram in grams) / len(grams) if grams else 0.0

    def holds_sound(self, sound: Fingerprint) -> bool:
        """Whether a sound of at least a second is in the training data."""
        if len(sound) < _MIN_FRAMES or not len(self.frames):
            return False
        first, last = (np.searchsorted(self._sorted, sound, side) for side in ("left", "right"))
        offsets: dict[int, int] = {}
        for frame in np.flatnonzero((last > first) & (last - first <= _MAX_PLACES)):
            for position in self._order[first[frame] : last[frame]]:
                offset = int(position) - int(frame)
                offsets[offset] = offsets.get(offset, 0) + 1
        best = sorted(offsets, key=lambda offset: -offsets[offset])[:_CANDIDATES]
        return any(self._errors(sound, offset) <= _MAX_ERRORS for offset in best)

    def _errors(self, sound: Fingerprint, offset: int) -> float:
        """The share of bits in which `sound`, laid at `offset`, differs; 1 where much of it lies outside."""
        start, end = max(offset, 0), min(offset + len(sound), len(self.frames))
        if end - start < max(_MIN_FRAMES, len(sound) // 2):
            return 1.0
        differing = self.frames[start:end] ^ sound[start - offset : end - offset]
        return float(np.unpackbits(differing.view(np.uint8)).mean())


def read_training(paths: Sequence[Path]) -> TrainingIndex:
    """Index of shards (folders that `data run` wrote), manifests (.jsonl, whose `path` is a sound beside it) and texts
    (.txt). Raises ConfigError for anything else."""
    ngrams, sounds, digests = set[int](), list[Fingerprint](), list[str]()
    for path in paths:
        digests.append(_digest(path))
        for text, sound in _samples(path):
            ngrams.update(ngram_hashes(text))
            if sound is not None:
                sounds.append(sound)
    frames = np.concatenate(sounds) if sounds else np.zeros(0, np.uint32)
    return TrainingIndex(ngrams, frames, text_digest(*digests))


def contamination(index: TrainingIndex, suite: str, data: Path, limit: int | None = None) -> dict[str, Any]:
    """For each set of a benchmark: items of which any 8-gram, or half of them, or the sound was trained on.

    listed: these items by name, with the share of their 8-grams and whether the sound was detected.
    """
    sets: dict[str, Any] = {}
    for item in SUITES[suite].load(data, False).limited(limit).items:
        share = index.text_share([item.question, *item.choices])
        in_audio = index.holds_sound(_item_fingerprint(item)) if len(index.frames) and item.audio is not None else False
        figures = sets.setdefault(item.subset, {"items": 0, "any_text": 0, "half_text": 0, "audio": 0, "listed": {}})
        figures["items"] += 1
        figures["any_text"] += share > 0
        figures["half_text"] += share >= 0.5
        figures["audio"] += in_audio
        if share > 0 or in_audio:
            figures["listed"][item.id] = {"text_share": round(share, 4), "audio": in_audio}
    return {"training": index.digest, "ngram": NGRAM, "sets": sets}


def ngram_hashes(text: str) -> Iterator[int]:
    """Hashes of the 8-grams of a text's words or characters; of all of them where there are fewer."""
    words = tokens(text, language_of(text) or "en")
    size = min(NGRAM, len(words))
    for start in range(len(words) - size + 1 if words else 0):
        gram = "\x1f".join(words[start : start + size]).encode()
        yield int.from_bytes(hashlib.blake2b(gram, digest_size=8).digest(), "big")


def fingerprint(waveform: NDArray[np.float32], sample_rate: int) -> Fingerprint:
    """Samples [S] -> 32 bits a frame [F]."""
    samples = soxr.resample(waveform, sample_rate, _RATE).astype(np.float32)
    if len(samples) < _FRAME + _HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    edges = np.round(_BANDS * _FFT / _RATE).astype(int)
    window = np.hanning(_FRAME).astype(np.float32)
    energies = [
        np.add.reduceat(np.abs(np.fft.rfft(part * window, _FFT)) ** 2, edges[:-1], axis=1)
        for part in np.array_split(frames, -(-len(frames) // 256))
    ]
    levels = np.concatenate(energies)
    slopes = np.diff(levels, axis=1)
    bits = np.diff(slopes, axis=0) > 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


def _item_fingerprint(item: Item) -> Fingerprint:
    try:
        return fingerprint(*item_waveform(item))
    except ItemFailure:
        return np.zeros(0, np.uint32)


def _digest(path: Path) -> str:
    index = path / "index.jsonl"
    return file_digest(index if index.is_file() else path) if path.is_file() or index.is_file() else ""


def _samples(path: Path) -> Iterator[tuple[str, Fingerprint | None]]:
    """Text and fingerprint of every training sample."""
    if path.is_dir():
        reader = ShardReader(path)
        for entry in reader.entries:
            sample = reader.sample(entry)
            for segment in sample.segments:
                yield segment.text, None
            if "flac" in entry.members:
                yield "", fingerprint(reader.waveform(entry), 24_000)
        return
    if path.suffix not in (".jsonl", ".txt") or not path.is_file():
        raise ConfigError(f"{path}: training data are folders of shards, .jsonl manifests or .txt files.")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix == ".txt":
            yield line, None
            continue
        try:
            row = json.loads(line or "{}")
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: this is no JSON.") from error
        for text in _texts(row):
            yield text, None
        sound = path.parent / str(row["path"]) if isinstance(row, dict) and "path" in row else None
        if sound is not None and sound.is_file():
            try:
                yield "", fingerprint(*read_audio(sound))
            except AudioError:
                continue


def _texts(node: Any) -> Iterator[str]:
    """All texts within a row, but names and licences."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, child in node.items():
            if key not in _NO_TEXT:
                yield from _texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)

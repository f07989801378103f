"""How much of a benchmark a model may have been trained on: 8-grams of texts, and fingerprints of sounds.

A fingerprint is 32 bits for every 46 ms: whether the difference of neighbouring bands between 300 and 2000 Hz grows
from one frame to the next (after Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002, whose
frames are closer). It survives compression, noise and other levels. A test recording is laid against the training data
at four shifts of 11.6 ms, so the training data need a fingerprint at one of them only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from ...audio.reading import read_audio
from ...data.store.atomic import file_digest, text_digest, written_aside
from ...data.store.manifest import CLIPS_FILE, WAVEFORMS_FILE, ClipStore
from ...data.store.shards import ShardReader
from ...errors import AudioError, ConfigError
from ...text.language import language_of
from ..systems.base import ItemFailure, item_waveform
from ..text import tokens
from .items import Item
from .registry import SUITES

NGRAM = 8
_RATE = 5_000
_FRAME, _HOP, _FFT = 1_850, 232, 2_048  # 370 ms, 46.4 ms
_SHIFTS = tuple(range(0, _HOP, _HOP // 4))  # 11.6 ms
_BANDS = np.geomspace(300, 2_000, 34)
_MAX_ERRORS = 0.3  # share of bits of one sound that may differ; unrelated ones differ in a half
_MIN_FRAMES = 21  # 1.3 s
_MAX_PLACES = 200  # frames that occur more often, such as silence, locate nothing
_CANDIDATES = 8
_FLIPS = np.concatenate([[0], 1 << np.arange(32)]).astype(np.uint32)  # a frame with one wrong bit still locates
_BLOCK = 256  # frames at once
_WINDOW = np.hanning(_FRAME).astype(np.float32)
_VERSION = "2"
_NO_TEXT = {"path", "id", "license", "source", "speaker", "language", "audio", "split", "kind"}
Fingerprint = NDArray[np.uint32]


@dataclass
class TrainingIndex:
    """What was trained on: sorted hashes of all 8-grams, and all fingerprints one after the other.

    digest: of the files that it was made from.
    """

    ngrams: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    frames: Fingerprint = field(default_factory=lambda: np.zeros(0, np.uint32))
    digest: str = ""

    def __post_init__(self) -> None:
        self._order = np.argsort(self.frames, kind="stable")
        self._sorted = self.frames[self._order]

    def text_share(self, texts: Sequence[str]) -> float:
        """The share of the texts' 8-grams that were trained on; a shorter text is one n-gram."""
        grams = _unique(gram for text in texts for gram in ngram_hashes(text))
        return float(np.isin(grams, self.ngrams).mean()) if len(grams) else 0.0

    def holds_sound(self, shifted: Sequence[Fingerprint]) -> bool:
        """Whether a sound of at least 1.3 s, given by its fingerprints at each shift, is in the training data."""
        return any(self._holds(sound) for sound in shifted)

    def _holds(self, sound: Fingerprint) -> bool:
        if len(sound) < _MIN_FRAMES or not len(self.frames):
            return False
        probes = sound[:, None] ^ _FLIPS
        first, last = (np.searchsorted(self._sorted, probes, side) for side in ("left", "right"))
        counts = np.where(last - first <= _MAX_PLACES, last - first, 0).ravel()
        # the places of every probe one after the other
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = self._order[np.repeat(first.ravel(), counts) + steps]
        offsets = places - np.repeat(np.repeat(np.arange(len(sound)), len(_FLIPS)), counts)
        distinct, times = np.unique(offsets, return_counts=True)
        best = distinct[np.argsort(-times, kind="stable")[:_CANDIDATES]]
        return any(self._errors(sound, int(offset)) <= _MAX_ERRORS for offset in best)

    def _errors(self, sound: Fingerprint, offset: int) -> float:
        """The share of bits in which `sound`, laid at `offset`, differs; 1 where much of it lies outside."""
        start, end = max(offset, 0), min(offset + len(sound), len(self.frames))
        if end - start < max(_MIN_FRAMES, len(sound) // 2):
            return 1.0
        differing = self.frames[start:end] ^ sound[start - offset : end - offset]
        return float(np.unpackbits(differing.view(np.uint8)).mean())


def read_training(paths: Sequence[Path], cache: Path | None = None) -> TrainingIndex:
    """Index of shards (folders that `data run` wrote), clip stores (their training part), manifests (.jsonl, whose
    `path` is a sound beside it) and texts (.txt). Raises ConfigError for anything else.

    cache: a file that keeps the index, and is read where it is of the same data.
    """
    digest = text_digest(_VERSION, *(_digest(path) for path in paths))
    if cache is not None and cache.is_file():
        with np.load(cache) as kept:
            if str(kept["digest"]) == digest:
                return TrainingIndex(kept["ngrams"], kept["frames"], digest)
    grams, sounds = list[NDArray[np.uint64]](), list[Fingerprint]()
    for path in paths:
        for text, sound in _samples(path):
            grams.append(np.fromiter(ngram_hashes(text), np.uint64))
            if sound is not None:
                sounds.append(sound)
    frames = np.concatenate(sounds) if sounds else np.zeros(0, np.uint32)
    index = TrainingIndex(np.unique(np.concatenate(grams)) if grams else _unique(()), frames, digest)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(cache) as aside, aside.open("wb") as file:
            np.savez(file, ngrams=index.ngrams, frames=index.frames, digest=np.array(digest))
    return index


def contamination(index: TrainingIndex, suite: str, data: Path, limit: int | None = None) -> dict[str, Any]:
    """For each set of a benchmark: items of which any 8-gram, or half of them, or the sound was trained on.

    listed: these items by name, with the share of their 8-grams and whether the sound was detected.
    """
    sets: dict[str, Any] = {}
    for item in SUITES[suite].load(data, False).limited(limit).items:
        share = index.text_share([item.question, *item.choices])
        in_audio = bool(len(index.frames)) and item.audio is not None and index.holds_sound(_item_fingerprints(item))
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
    return _fingerprint(_resampled(waveform, sample_rate))


def shifted_fingerprints(waveform: NDArray[np.float32], sample_rate: int) -> list[Fingerprint]:
    """Samples [S] -> its fingerprint at every shift, to be sought in an index."""
    samples = _resampled(waveform, sample_rate)
    return [_fingerprint(samples[shift:]) for shift in _SHIFTS]


def _resampled(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    return soxr.resample(np.asarray(waveform, np.float32), sample_rate, _RATE, "LQ")


def _fingerprint(samples: NDArray[np.float32]) -> Fingerprint:
    if len(samples) < _FRAME + _HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    edges = np.round(_BANDS * _FFT / _RATE).astype(int)
    energies = []
    for start in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[start : start + _BLOCK] * _WINDOW, _FFT)[:, edges[0] : edges[-1]]
        power = spectrum.real**2 + spectrum.imag**2
        energies.append(np.add.reduceat(power, edges[:-1] - edges[0], axis=1))
    bits = np.diff(np.diff(np.concatenate(energies), axis=1), axis=0) > 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


def _unique(values: Iterable[int]) -> NDArray[np.uint64]:
    return np.unique(np.fromiter(values, np.uint64))


def _item_fingerprints(item: Item) -> list[Fingerprint]:
    try:
        return shifted_fingerprints(*item_waveform(item))
    except ItemFailure:
        return []


def _digest(path: Path) -> str:
    """Hash of a file, or of a folder's list and the size of its sounds."""
    if path.is_file():
        return file_digest(path)
    lists = [path / name for name in ("index.jsonl", CLIPS_FILE) if (path / name).is_file()]
    sounds = path / WAVEFORMS_FILE
    return text_digest(*map(file_digest, lists), str(sounds.stat().st_size) if sounds.is_file() else "")


def _samples(path: Path) -> Iterator[tuple[str, Fingerprint | None]]:
    """Text and fingerprint of every training sample."""
    if (path / CLIPS_FILE).is_file():
        store = ClipStore(path)
        for clip in store.select(split="train"):
            yield clip.transcript or "", fingerprint(store.waveform(clip).numpy(), clip.sample_rate)
        return
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
        raise ConfigError(f"{path}: training data are folders of shards, clip stores, .jsonl manifests or .txt files.")
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

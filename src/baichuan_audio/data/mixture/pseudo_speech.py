"""Pseudo-codes: code frames made from a text's phonemes, for training on audio tasks before any codes exist.

Most of a language model's first steps go into the alignment of frames and text, and into spelling. Both can be learnt
from frames that hold the text's phonemes, each as long as in aligned speech (`data/alignment/phone_alignment.py`).
True codes then get the embeddings of their phonemes (`training/common/initialise.py: embed_codes_like_sounds`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...text.phonemes import SYMBOLS, phonetic_symbols
from ..alignment.phone_alignment import FRAMES_PER_SECOND, PHONES_PER_FRAME, Alignment
from ..dialogues import Dialogue, Exchange

_PLACES_PER_SECOND = 50.0
_VARIANTS = 6  # codes that a voice has in each of the other codebooks
_SPEAKERS = 24
_SILENCE, _GAP = 0, SYMBOLS.index(" ")
_TEMPO = (0.85, 1.2)
_PAUSE = 0.06  # share of gaps between words that are pauses
_REPLACED = 0.12  # share of a question's phonemes; true codes are no more certain
_ASKER = "asker"
_MOST_LENGTHS = 2000
_LONGEST = 40  # frames of 10 ms of one sound or pause


class PseudoSpeech:
    """`speech["voice|text"]` -> codes [K, T], always the same for the same name.

    Codebooks 0..3 hold the phonemes at the four positions of a frame, the others the voice. Some phonemes of questions
    are replaced; replies are clean, since they are targets. Raises DataError when a codebook is too small for that, or
    when there are fewer than four.
    """

    def __init__(self, codebook_sizes: Sequence[int], alignments: Iterable[Alignment], seed: int = 0) -> None:
        if len(codebook_sizes) < PHONES_PER_FRAME or min(codebook_sizes[:PHONES_PER_FRAME]) < len(SYMBOLS):
            raise DataError(f"pseudo-codes need {PHONES_PER_FRAME} codebooks of at least {len(SYMBOLS)} entries.")
        rng = np.random.default_rng(seed)
        self._lengths = sound_lengths(alignments)
        self._voices = [rng.integers(size, size=(_SPEAKERS, _VARIANTS)) for size in codebook_sizes[PHONES_PER_FRAME:]]

    def __getitem__(self, name: str) -> Tensor:
        voice = name.split("|", 1)[0]
        rng = _draws(name)
        places = _places(self._timeline(name, rng))
        frames = -(-len(places) // PHONES_PER_FRAME)
        sounds = np.pad(places, (0, frames * PHONES_PER_FRAME - len(places)))
        replaced = rng.random(len(sounds)) < (_REPLACED if voice.startswith(_ASKER) else 0)
        sounds[replaced] = rng.integers(len(SYMBOLS), size=int(replaced.sum()))
        speaker = zlib.crc32(voice.encode("utf-8")) % _SPEAKERS
        codes = [*sounds.reshape(frames, PHONES_PER_FRAME).T]
        codes += [table[speaker, rng.integers(_VARIANTS, size=frames)] for table in self._voices]
        return torch.from_numpy(np.stack(codes)).long()

    def alignment(self, name: str) -> Alignment:
        """When each sound of `self[name]` is said."""
        sounds, ends = self._timeline(name, _draws(name))
        return sounds, np.rint(ends * FRAMES_PER_SECOND / _PLACES_PER_SECOND).astype(np.int64)

    def _timeline(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sounds and their ends in places (20 ms), silence before and after."""
        tempo = rng.uniform(*_TEMPO)
        parts: list[int] = []
        ends = [rng.uniform(1, 14)]
        for sound in phonetic_symbols(name.split("|", 1)[1]):
            if sound == _GAP and rng.random() >= _PAUSE:
                continue
            lengths = self._lengths[_SILENCE if sound == _GAP else sound]
            parts.append(_SILENCE if sound == _GAP else sound)
            ends.append(
                ends[-1] + tempo * float(lengths[rng.integers(len(lengths))]) * _PLACES_PER_SECOND / FRAMES_PER_SECOND
            )
        ends.append(int(ends[-1] + rng.uniform(1, 14)) + 1)
        return np.array([_SILENCE, *parts, _SILENCE]), np.array(ends)


def _draws(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")))


def _places(timeline: Alignment) -> np.ndarray:
    """The sound at each place."""
    sounds, ends = timeline
    return sounds[np.searchsorted(ends, np.arange(int(ends[-1])), side="right")]


def sound_lengths(alignments: Iterable[Alignment]) -> list[np.ndarray]:
    """For each symbol the lengths it has in aligned speech, in frames of 10 ms; silences only between sounds.

    A symbol that never occurs gets the mean of the others. Raises DataError when there are no alignments.
    """
    by_symbol: list[list[int]] = [[] for _ in SYMBOLS]
    for symbols, ends in alignments:
        lengths = np.diff(ends, prepend=0)
        for index, (symbol, length) in enumerate(zip(symbols, lengths, strict=True)):
            edge = symbol == _SILENCE and index in (0, len(symbols) - 1)
            if length > 0 and not edge and len(by_symbol[symbol]) < _MOST_LENGTHS:
                by_symbol[symbol].append(min(int(length), _LONGEST))
    known = [length for lengths in by_symbol[1:] for length in lengths]
    if not known:
        raise DataError("pseudo-codes need alignments, and there are none.")
    mean = [round(sum(known) / len(known))]
    return [np.array(lengths or mean) for lengths in by_symbol]


def with_pseudo_clips(dialogue: Dialogue) -> Dialogue:
    """The same dialogue, with a pseudo-clip for every question and clause."""
    asker = f"{_ASKER}{zlib.crc32(dialogue.id.encode('utf-8')) % _SPEAKERS}"
    exchanges = (
        Exchange(e.user, f"{asker}|{e.user}", tuple((text, f"{dialogue.voice}|{text}") for text, _ in e.reply))
        for e in dialogue.exchanges
    )
    return replace(dialogue, exchanges=tuple(exchanges))

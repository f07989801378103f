"""Stand-in for speech: code frames made from a text's sounds, for learning to hear and speak before any codes exist.

A language model needs most of its steps to find out that frames are read in order, each word at its place and for a
varying time, and how words are spelt. That can be learnt from frames that only follow the text's sounds, each as long
as it is in aligned speech (`data/alignment/phone_alignment.py`). Such frames cost nothing to make and never repeat.
True codes are then given embeddings that say the same (`training/common/initialise.py: embed_codes_like_sounds`).
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
_MISHEARD = 0.12  # of the places of a question; codes of true speech tell sounds no more surely
_ASKER = "asker"
_MOST_LENGTHS = 2000
_LONGEST = 40  # frames of 10 ms of one sound or pause


class PseudoSpeech:
    """`speech["voice|text"]` -> codes [K, T], always the same for the same name.

    Codebooks 0..3 hold the sounds at the four places of a frame, the others the voice. Those who ask are misheard at
    times; what the model shall say itself is clean, or it would learn to mumble. Raises DataError when a codebook is
    too small for that, or when there are fewer than four.
    """

    def __init__(self, codebook_sizes: Sequence[int], alignments: Iterable[Alignment], seed: int = 0) -> None:
        if len(codebook_sizes) < PHONES_PER_FRAME or min(codebook_sizes[:PHONES_PER_FRAME]) < len(SYMBOLS):
            raise DataError(f"stand-in speech needs {PHONES_PER_FRAME} codebooks of at least {len(SYMBOLS)} entries.")
        rng = np.random.default_rng(seed)
        self._lengths = sound_lengths(alignments)
        self._voices = [rng.integers(size, size=(_SPEAKERS, _VARIANTS)) for size in codebook_sizes[PHONES_PER_FRAME:]]

    def __getitem__(self, name: str) -> Tensor:
        voice = name.split("|", 1)[0]
        rng = _draws(name)
        places = _places(self._timeline(name, rng))
        frames = -(-len(places) // PHONES_PER_FRAME)
        sounds = np.pad(places, (0, frames * PHONES_PER_FRAME - len(places)))
        misheard = rng.random(len(sounds)) < (_MISHEARD if voice.startswith(_ASKER) else 0)
        sounds[misheard] = rng.integers(len(SYMBOLS), size=int(misheard.sum()))
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
        time_warp = rng.uniform(*_TEMPO)
        parts: list[int] = []
        ends = [rng.uniform(1, 14)]
        for sound in phonetic_symbols(name.split("|", 1)[1]):
            if sound == _GAP and rng.random() >= _PAUSE:
                continue
            own = self._lengths[_SILENCE if sound == _GAP else sound]
            parts.append(_SILENCE if sound == _GAP else sound)
            ends.append(
                ends[-1] + time_warp * float(own[rng.integers(len(own))]) * _PLACES_PER_SECOND / FRAMES_PER_SECOND
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
    found: list[list[int]] = [[] for _ in SYMBOLS]
    for symbols, ends in alignments:
        lengths = np.diff(ends, prepend=0)
        for place, (symbol, length) in enumerate(zip(symbols, lengths, strict=True)):
            edge = symbol == _SILENCE and place in (0, len(symbols) - 1)
            if length > 0 and not edge and len(found[symbol]) < _MOST_LENGTHS:
                found[symbol].append(min(int(length), _LONGEST))
    known = [length for lengths in found[1:] for length in lengths]
    if not known:
        raise DataError("stand-in speech needs alignments, and there are none.")
    mean = [round(sum(known) / len(known))]
    return [np.array(lengths or mean) for lengths in found]


def with_pseudo_clips(dialogue: Dialogue) -> Dialogue:
    """The same dialogue, every question and clause naming its pseudo-speech."""
    asker = f"{_ASKER}{zlib.crc32(dialogue.id.encode('utf-8')) % _SPEAKERS}"
    exchanges = (
        Exchange(each.user, f"{asker}|{each.user}", tuple((text, f"{dialogue.voice}|{text}") for text, _ in each.reply))
        for each in dialogue.exchanges
    )
    return replace(dialogue, exchanges=tuple(exchanges))

"""Stand-in for speech: code frames made from a text's sounds, for learning to hear and speak before any codes exist.

A language model needs most of its steps to find out that frames are read in order, each word at its place and for a
varying time. That can be learnt from frames that only follow the text's phones; true codes then need new embeddings
and little else. Such frames cost nothing to make and never repeat.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.data.dialogues import Dialogue, Exchange
from baichuan_audio.data.phonetics import SYMBOLS, phonetic_symbols

_VARIANTS = 6  # codes that a sound has in each codebook
_SPEAKERS = 24
_SILENCE, _GAP = 0, SYMBOLS.index(" ")


class PseudoSpeech:
    """`speech["voice|text"]` -> codes [K, T], always the same for the same name.

    Codebook 0 follows the sound in the middle of a frame, 1 and 2 those at its edges; the others the voice.
    """

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._sizes = np.array(codebook_sizes)
        self._sounds = [rng.integers(size, size=(len(SYMBOLS), _VARIANTS)) for size in codebook_sizes[:3]]
        self._voices = [rng.integers(size, size=(_SPEAKERS, _VARIANTS)) for size in codebook_sizes[3:]]

    def __getitem__(self, name: str) -> Tensor:
        voice, text = name.split("|", 1)
        rng = np.random.default_rng(zlib.crc32(name.encode("utf-8")))
        sounds = np.array([_SILENCE, *phonetic_symbols(text), _SILENCE])
        lengths = rng.uniform(0.4, 1.3, len(sounds)) * rng.uniform(0.8, 1.25)
        lengths[sounds == _GAP] *= 0.3
        lengths[[0, -1]] = rng.uniform(0.5, 3.0, 2)
        ends = np.cumsum(lengths)
        frames = np.arange(max(1, int(ends[-1])))
        codes = []
        for level, place in enumerate((0.5, 0.0, 1.0)[: len(self._sounds)]):
            heard = sounds[np.minimum(np.searchsorted(ends, frames + place), len(sounds) - 1)]
            codes.append(self._sounds[level][heard, rng.integers(_VARIANTS, size=len(frames))])
        speaker = zlib.crc32(voice.encode("utf-8")) % _SPEAKERS
        codes += [table[speaker, rng.integers(_VARIANTS, size=len(frames))] for table in self._voices]
        return torch.from_numpy(np.stack(codes)).long()


def with_pseudo_clips(dialogue: Dialogue) -> Dialogue:
    """The same dialogue, every question and clause naming its pseudo-speech."""
    asker = f"asker{zlib.crc32(dialogue.id.encode('utf-8')) % _SPEAKERS}"
    exchanges = (
        Exchange(each.user, f"{asker}|{each.user}", tuple((text, f"{dialogue.voice}|{text}") for text, _ in each.reply))
        for each in dialogue.exchanges
    )
    return replace(dialogue, exchanges=tuple(exchanges))

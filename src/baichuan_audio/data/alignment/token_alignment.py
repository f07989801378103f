"""Which text token is being said at each code frame, from a clip's alignment: what reading along teaches, and where
speech is cut that takes turns with its text.

A language model that must find out by itself where in a text its voice has come to, or which words it has heard,
needs many steps before any of its attention looks there. With the times known it can be asked at every frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...generation.interleaving import split_words
from ...language_model.text_tokenizer import TextTokenizer
from ...text.phonemes import phonetic_units
from .phone_alignment import FRAMES_PER_SECOND, PLACES, Alignment, frame_sounds

UNKNOWN = -100
_REMEMBERED = 20_000  # texts whose times are kept
_LAST_UNSPOKEN = 1  # silence and the gap between words


class ReadAlong:
    """`alignments(clip)` finds a clip's alignment or None; `frame_rate` is that of the codes, in Hz."""

    def __init__(
        self, tokenizer: TextTokenizer, alignments: Callable[[str], Alignment | None], frame_rate: float
    ) -> None:
        self._tokenizer, self._alignments = tokenizer, alignments
        self._times = functools.lru_cache(maxsize=_REMEMBERED)(self._find_times)
        self._frame_rate, self._step = frame_rate, FRAMES_PER_SECOND / frame_rate

    def reading(self, clip: str, text: str, frames: int) -> Tensor:
        """[frames] the token of `text` that is being said or comes next; UNKNOWN after the last, or unaligned."""
        ids, _, ends = self._times(clip, text)
        return _pick(ids, np.searchsorted(ends, (np.arange(frames) + 0.5) * self._step, side="right"))

    def heard(self, clip: str, text: str, frames: int, speed: float = 1.0) -> Tensor:
        """[frames] the last token of `text` that has been said to its end; UNKNOWN before that, or unaligned.

        The clip is heard `speed` times as fast as it was aligned.
        """
        ids, _, ends = self._times(clip, text)
        return _pick(ids, np.searchsorted(ends, (np.arange(frames) + 1) * self._step * speed, side="right") - 1)

    def sounds(self, clip: str, frames: int, speed: float = 1.0) -> Tensor:
        """[frames, PLACES] the sounds in each frame as indices into SYMBOLS; UNKNOWN where the clip is unaligned."""
        alignment = self._alignments(clip)
        if alignment is None:
            return torch.full((frames, PLACES), UNKNOWN)
        return torch.from_numpy(frame_sounds(alignment, frames, self._frame_rate, speed=speed))

    def split(self, clip: str, text: str, frames: int, letters: int) -> list[tuple[str, int]]:
        """The runs of words in which a reply is spoken (`split_words`), each with the frame at which it ends.

        A run of which nothing is heard goes with the one after it; an unaligned text stays whole.
        """
        _, firsts, times = self._times(clip, text)
        if not len(times):
            return [(text, frames)]
        ends = self._frames_before(times)
        runs: list[tuple[str, int]] = []
        waiting, place, before = "", 0, 0
        for words in split_words(text, self._tokenizer, letters):
            waiting, place = waiting + words, place + len(words)
            said = int(np.searchsorted(firsts, place))  # tokens up to here
            end = min(frames, int(ends[said - 1])) if said else 0
            if end > before:
                runs.append((waiting, end))
                waiting, before = "", end
        last = runs.pop()[0] if runs else ""
        return [*runs, (last + waiting, frames)]

    def _frames_before(self, times: np.ndarray) -> np.ndarray:
        """How many frames have their middle before each time."""
        return np.maximum(0, np.ceil(times / self._step - 0.5)).astype(int)

    def _find_times(self, clip: str, text: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Ids, places in the text and ends of its tokens that are said; every draw of a clip asks for them."""
        alignment = self._alignments(clip)
        times = token_ends(text, alignment, self._tokenizer.spans(text)) if alignment else []
        return [id for id, _, _ in times], np.array([at for _, at, _ in times]), np.array([end for _, _, end in times])


def token_ends(text: str, alignment: Alignment, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, float]]:
    """Those (id, first, end) spans of `text` that are said: id, first, and when it ends in frames of 10 ms.

    Where the aligner chose another pronunciation than the dictionary's first, the words share what it found in
    proportion to their sounds; within a word its characters share its time evenly.
    """
    symbols, ends = alignment
    spoken = symbols > _LAST_UNSPOKEN
    begins, ends = np.concatenate([[0], ends[:-1]])[spoken], ends[spoken]
    units = phonetic_units(text)
    counts = np.cumsum([0, *(len(sounds) for _, _, sounds in units)])
    if not counts[-1] or not len(ends):
        return []
    boundary_crop_prob = np.rint(counts * len(ends) / counts[-1]).astype(int)
    said_by = np.full(len(text), np.nan)
    for (start, stop, _), first, last in zip(units, boundary_crop_prob, boundary_crop_prob[1:], strict=False):
        if last > first:
            said_by[start:stop] = np.linspace(begins[first], ends[last - 1], stop - start + 1)[1:]
    known = ((id, start, said_by[start:stop]) for id, start, stop in spans)
    return [(id, start, float(np.nanmax(times))) for id, start, times in known if not np.isnan(times).all()]


def _pick(ids: Sequence[int], places: np.ndarray) -> Tensor:
    known = torch.tensor([*ids, UNKNOWN])
    inside = (places >= 0) & (places < len(ids))
    return known[torch.from_numpy(np.where(inside, places, len(ids)))]

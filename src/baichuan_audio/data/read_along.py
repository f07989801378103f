"""Which text token is being said at each code frame, from a clip's alignment: what reading along teaches.

A language model that must find out by itself where in a text its voice has come to, or which words it has heard,
needs many steps before any of its attention looks there. With the times known it can be asked at every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.data.phone_alignment import FRAMES_PER_SECOND, Alignment
from baichuan_audio.data.phonetics import phonetic_units
from baichuan_audio.language_model.text_tokenizer import TextTokenizer

UNKNOWN = -100
_LAST_UNSPOKEN = 1  # silence and the gap between words


class ReadAlong:
    """`alignments(clip)` finds a clip's alignment or None; `frame_rate` is that of the codes, in Hz."""

    def __init__(
        self, tokenizer: TextTokenizer, alignments: Callable[[str], Alignment | None], frame_rate: float
    ) -> None:
        self._tokenizer, self._alignments = tokenizer, alignments
        self._step = FRAMES_PER_SECOND / frame_rate

    def reading(self, clip: str, text: str, frames: int) -> Tensor:
        """[frames] the token of `text` that is being said or comes next; UNKNOWN after the last, or unaligned."""
        ids, ends = self._times(clip, text)
        return _pick(ids, np.searchsorted(ends, (np.arange(frames) + 0.5) * self._step, side="right"))

    def heard(self, clip: str, text: str, frames: int, speed: float = 1.0) -> Tensor:
        """[frames] the last token of `text` that has been said to its end; UNKNOWN before that, or unaligned.

        The clip is heard `speed` times as fast as it was aligned.
        """
        ids, ends = self._times(clip, text)
        return _pick(ids, np.searchsorted(ends, (np.arange(frames) + 1) * self._step * speed, side="right") - 1)

    def _times(self, clip: str, text: str) -> tuple[list[int], np.ndarray]:
        alignment = self._alignments(clip)
        times = token_ends(text, alignment, self._tokenizer.spans(text)) if alignment else []
        return [id for id, _ in times], np.array([end for _, end in times])


def token_ends(text: str, alignment: Alignment, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, float]]:
    """The ids of those (id, first, end) spans of `text` that are said, each with its end in frames of 10 ms.

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
    edges = np.rint(counts * len(ends) / counts[-1]).astype(int)
    said_by = np.full(len(text), np.nan)
    for (start, stop, _), first, last in zip(units, edges, edges[1:], strict=False):
        if last > first:
            said_by[start:stop] = np.linspace(begins[first], ends[last - 1], stop - start + 1)[1:]
    known = ((id, said_by[start:stop]) for id, start, stop in spans)
    return [(id, float(np.nanmax(times))) for id, times in known if not np.isnan(times).all()]


def _pick(ids: Sequence[int], places: np.ndarray) -> Tensor:
    known = torch.tensor([*ids, UNKNOWN])
    inside = (places >= 0) & (places < len(ids))
    return known[torch.from_numpy(np.where(inside, places, len(ids)))]

"""Where a clip's speech is cut into runs of words that alternate with their text, from its phoneme alignment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ...generation.interleaving import split_words
from ...language_model.text_tokenizer import TextTokenizer
from ...text.phonemes import phonetic_units
from .phone_alignment import FRAMES_PER_SECOND, Alignment

_CACHED_TEXTS = 20_000
_LAST_UNSPOKEN = 1  # silence and the gap between words


class TokenAligner:
    """Aligns runs of words with code frames.

    `alignments(clip)` gives a clip's alignment or None; `frame_rate` is that of the codes, in Hz.
    """

    def __init__(
        self, tokenizer: TextTokenizer, alignments: Callable[[str], Alignment | None], frame_rate: float
    ) -> None:
        self._tokenizer, self._alignments = tokenizer, alignments
        self._times = functools.lru_cache(maxsize=_CACHED_TEXTS)(self._find_times)
        self._step = FRAMES_PER_SECOND / frame_rate

    def split(self, clip: str, text: str, frames: int, letters: int) -> list[tuple[str, int]]:
        """The runs of words in which a reply is spoken (`split_words`), each with the frame at which it ends.

        A run without a frame joins the next one; an unaligned text stays whole.
        """
        firsts, times = self._times(clip, text)
        if not len(times):
            return [(text, frames)]
        ends = self._frames_before(times)
        runs: list[tuple[str, int]] = []
        waiting, position, before = "", 0, 0
        for words in split_words(text, self._tokenizer, letters):
            waiting, position = waiting + words, position + len(words)
            tokens = int(np.searchsorted(firsts, position))  # that begin before here
            end = min(frames, int(ends[tokens - 1])) if tokens else 0
            if end > before:
                runs.append((waiting, end))
                waiting, before = "", end
        last = runs.pop()[0] if runs else ""
        return [*runs, (last + waiting, frames)]

    def _frames_before(self, times: np.ndarray) -> np.ndarray:
        """How many frames have their middle before each time."""
        return np.maximum(0, np.ceil(times / self._step - 0.5)).astype(int)

    def _find_times(self, clip: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the text and end times of its spoken tokens."""
        alignment = self._alignments(clip)
        times = token_ends(text, alignment, self._tokenizer.spans(text)) if alignment else []
        return np.array([at for at, _ in times]), np.array([end for _, end in times])


def token_ends(text: str, alignment: Alignment, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, float]]:
    """Those (id, first, end) spans of `text` that are spoken: first, and its end time in frames of 10 ms.

    Where the aligner chose another pronunciation than the dictionary's first, the words share its phonemes in
    proportion to their own; within a word its characters share its time evenly.
    """
    symbols, ends = alignment
    spoken = symbols > _LAST_UNSPOKEN
    begins, ends = np.concatenate([[0], ends[:-1]])[spoken], ends[spoken]
    units = phonetic_units(text)
    counts = np.cumsum([0, *(len(phonemes) for _, _, phonemes in units)])
    if not counts[-1] or not len(ends):
        return []
    edges = np.rint(counts * len(ends) / counts[-1]).astype(int)
    end_times = np.full(len(text), np.nan)
    for (start, stop, _), first, last in zip(units, edges, edges[1:], strict=False):
        if last > first:
            end_times[start:stop] = np.linspace(begins[first], ends[last - 1], stop - start + 1)[1:]
    known = ((start, end_times[start:stop]) for _, start, stop in spans)
    return [(start, float(np.nanmax(times))) for start, times in known if not np.isnan(times).all()]

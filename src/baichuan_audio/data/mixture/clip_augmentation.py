"""Input audio from recorded clips, as codes: whole clips, excerpts, and concatenations of words; and augmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .. import sequences
from ..alignment.token_alignment import UNKNOWN
from ..sequences import Frames
from .config import Augmentation, MixtureConfig
from .samplers import MixtureData
from .weighted_sampling import Utterance, pick

_MAX_EXCERPT_WORDS = 4
_MAX_EXCERPTS = 4
_CANDIDATES = 4  # positions compared for the next words of a concatenated text
_CONTINUE_PROB = 0.7  # that a concatenated piece may be a word longer


class ClipAugmenter:
    """Gives the frames of input clips; cuts them by the alignments of `data.aligner` (None: whole clips only).

    `by_speaker`: the utterances of each speaker, from which words are taken.
    """

    def __init__(
        self,
        config: MixtureConfig,
        codebook_sizes: Sequence[int],
        data: MixtureData,
        by_speaker: Mapping[str, Sequence[Utterance]],
    ) -> None:
        self._config, self._data, self._by_speaker = config, data, by_speaker
        self._sizes = torch.tensor(codebook_sizes)
        self._word_index: dict[str, dict[str, list[tuple[Utterance, int]]]] = {}
        self._words_of: dict[str, list[tuple[str, int]]] = {}

    def medley(self, utterance: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Excerpt concatenation: words of one clip, and perhaps of others of its speaker, one after the other."""
        pace = rng.random()
        parts = [self._excerpt(utterance, pace, rng)]
        others = self._by_speaker.get(utterance.speaker_name or "", [])
        while others and len(parts) < _MAX_EXCERPTS and rng.random() < self._config.medley:
            parts.append(self._excerpt(pick(others, rng), pace, rng))
        words = (" " if utterance.transcript.isascii() else "").join(words for words, _ in parts if words)
        return words, sequences.joined([frames for _, frames in parts])

    def _excerpt(self, utterance: Utterance, pace: float, rng: np.random.Generator) -> tuple[str, Frames]:
        """Some consecutive words of a clip."""
        first = int(rng.integers(len(self._words(utterance))))
        count = int(rng.integers(1, _MAX_EXCERPT_WORDS, endpoint=True))
        return self._cut(utterance, first, first + count, pace, rng)

    def spliced(self, utterance: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Word substitution: a clip with one word replaced by another of its speaker; long words more often."""
        other = pick(self._by_speaker.get(utterance.speaker_name or "", [utterance]), rng)
        if other.transcript.isascii() != utterance.transcript.isascii():  # a voice of two languages
            other = utterance
        count, pace = len(self._words(utterance)), rng.random()
        position, word = _by_length(self._words(utterance), rng), _by_length(self._words(other), rng)
        parts = [self._cut(other, word, word + 1, pace, rng)]
        if position:
            parts.insert(0, self._cut(utterance, 0, position, pace, rng))
        if position + 1 < count:
            parts.append(self._cut(utterance, position + 1, count, pace, rng))
        blank = " " if utterance.transcript.isascii() else ""
        return blank.join(words for words, _ in parts), sequences.joined([frames for _, frames in parts])

    def woven(self, words: str, speaker: str, rng: np.random.Generator, pace: float | None = None) -> Frames | None:
        """Word concatenation: a text in a speaker's voice; None where its clips lack a word.

        `pace` as for `clip`, but None picks one speed for the whole text.
        """
        units, pieces, pace = _units(words), list[Frames](), rng.random() if pace is None else pace
        while units:
            match = self._longest_match(units, speaker, rng)
            if match is None:
                return None
            text, frames = self._cut(*match, pace, rng)
            pieces.append(frames)
            units = units[len(_units(text)) :]
        return sequences.joined(pieces) if pieces else None

    def _longest_match(
        self, units: Sequence[str], speaker: str, rng: np.random.Generator
    ) -> tuple[Utterance, int, int] | None:
        """Of a few clips with the first of `units`, the one with the most of them: utterance, first word, end."""
        positions = self._positions(speaker).get(units[0], [])
        max_length, best_length, best = int(rng.geometric(1 - _CONTINUE_PROB)), 0, None
        for _ in range(_CANDIDATES if positions else 0):
            utterance, first = pick(positions, rng)
            length, stop = 0, first
            for text, _ in self._words(utterance)[first:]:
                more = _units(text)
                if length >= max_length or units[length : length + len(more)] != more:
                    break
                length, stop = length + len(more), stop + 1
            if length > best_length:
                best_length, best = length, (utterance, first, stop)
        return best

    def _positions(self, speaker: str) -> dict[str, list[tuple[Utterance, int]]]:
        """Where a speaker says a word: the utterance, and the index of its run that begins with it."""
        if speaker not in self._word_index:
            index: dict[str, list[tuple[Utterance, int]]] = {}
            for utterance in self._by_speaker.get(speaker, []):
                for at, (text, _) in enumerate(self._words(utterance)):
                    index.setdefault(_units(text)[0], []).append((utterance, at))
            self._word_index[speaker] = index
        return self._word_index[speaker]

    def _words(self, utterance: Utterance) -> list[tuple[str, int]]:
        """The words of a clip, each with the frame at which it ends."""
        assert self._data.aligner is not None
        words = self._words_of.get(utterance.clip)
        if words is None:
            frames = self._data.codes(utterance.clip).shape[1]
            words = self._data.aligner.split(utterance.clip, utterance.transcript, frames, 1)
            self._words_of[utterance.clip] = words
        return words

    def _cut(
        self, utterance: Utterance, first: int, stop: int, pace: float, rng: np.random.Generator
    ) -> tuple[str, Frames]:
        """The words [first, stop) of a clip."""
        words = self._words(utterance)
        part = words[first:stop]
        # where they begin, where the first of them ends and where the last one does
        bounds = (words[first - 1][1] if first else 0, part[0][1], part[-1][1])
        text = "".join(text for text, _ in part).strip()
        return text, self.clip(utterance.clip, utterance.transcript, rng, pace, bounds)

    def clip(
        self,
        clip: str,
        words: str,
        rng: np.random.Generator,
        pace: float | None = None,
        part: tuple[int, int, int] | None = None,
    ) -> Frames:
        """A clip's frames, augmented, or those from `part[0]` to `part[2]`, whose first word ends at `part[1]`.

        `pace` in [0, 1) picks the speed, so that concatenated pieces have one voice; None: any.
        """
        codes, aligner = self._data.codes(clip), self._data.aligner
        speeds = [codes, *(store[clip] for store in self._data.additional_codes if clip in store)]
        chosen = speeds[int((rng.random() if pace is None else pace) * len(speeds))]
        speed, frames = codes.shape[1] / chosen.shape[1], chosen.shape[1]
        begin, known, end = (round(position / speed) for position in part or (0, 0, codes.shape[1]))
        begin = min(begin, frames - 1)  # one frame at least
        varied, kept = augment_codes(
            chosen[:, begin : max(end, begin + 1)], self._sizes, self._config.augmentation, rng
        )
        if aligner is None:
            return Frames(varied)
        aligned = aligner.finished_tokens(clip, words, frames, speed)
        aligned[: known if part else 0] = UNKNOWN  # a word before the excerpt is not in it
        phonemes = aligner.phonemes(clip, frames, speed)
        return Frames(varied, aligned[begin:][kept], phonemes[begin:][kept])


def _units(words: str) -> list[str]:
    """The units of concatenation: words, in Mandarin characters."""
    return words.split() if words.isascii() else list(words.replace(" ", ""))


def _by_length(runs: Sequence[tuple[str, int]], rng: np.random.Generator) -> int:
    """One of the runs, drawn by how long it lasts."""
    lengths = np.diff([0, *(end for _, end in runs)])
    return int(rng.choice(len(runs), p=lengths / lengths.sum()))


def augment_codes(
    codes: Tensor, sizes: Tensor, settings: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Augment input codes [K, T] -> codes [K, S], and the index in T of each frame [S].

    S is at least one. A replaced frame keeps the index of the frame that belongs there.
    """
    count = codes.shape[1]
    kept = np.arange(count)
    if settings.time_warp:
        new_count = max(1, round(count * (1 + rng.uniform(-settings.time_warp, settings.time_warp))))
        if new_count <= count:
            kept = rng.choice(count, new_count, replace=False)
        else:
            kept = np.concatenate([kept, rng.choice(count, new_count - count)])
        kept.sort()
    shown = kept.copy()
    if settings.replaced_frames:
        replaced = rng.random(len(kept)) < settings.replaced_frames
        shown[replaced] = rng.integers(count, size=int(replaced.sum()))
    varied = codes[:, torch.from_numpy(shown)]
    if settings.replaced_codes:
        replaced_codes = torch.from_numpy(rng.random(varied.shape) < settings.replaced_codes)
        replaced_codes[0] = False
        random_codes = (torch.from_numpy(rng.random(varied.shape)) * sizes[:, None]).long()
        varied = torch.where(replaced_codes, random_codes, varied)
    return varied, torch.from_numpy(kept)

"""What is heard of recorded clips, as codes: whole, in pieces, with a word exchanged; and varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.data import sequences
from baichuan_audio.data.dataset import CodesStore
from baichuan_audio.data.diet import Augmentation, Diet
from baichuan_audio.data.drawing import Utterance, pick
from baichuan_audio.data.read_along import UNKNOWN, ReadAlong
from baichuan_audio.data.sequences import Frames

_LONGEST_EXCERPT = 4  # words
_LONGEST_MEDLEY = 4  # excerpts


class Hearing:
    """Finds the frames of clips, and cuts them by what `read_along` knows (None: whole clips only).

    `codes` finds a clip's frames [K, T], `heard_also` more of them, at other speeds; `by_name` what else a
    speaker says.
    """

    def __init__(
        self,
        diet: Diet,
        codebook_sizes: Sequence[int],
        codes: Callable[[str], Tensor],
        by_name: Mapping[str, Sequence[Utterance]],
        read_along: ReadAlong | None = None,
        heard_also: Sequence[CodesStore] = (),
    ) -> None:
        self.diet, self.read_along = diet, read_along
        self._codes, self._by_name, self._heard_also = codes, by_name, heard_also
        self._sizes = torch.tensor(codebook_sizes)

    def medley(self, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Words out of one clip, and perhaps out of others of its speaker, as if said one after the other."""
        heard = [self._excerpt(found, rng)]
        neighbours = self._by_name.get(found.said_by or "", [])
        while neighbours and len(heard) < _LONGEST_MEDLEY and rng.random() < self.diet.medley:
            heard.append(self._excerpt(pick(neighbours, rng), rng))
        words = (" " if found.transcript.isascii() else "").join(words for words, _ in heard if words)
        return words, sequences.joined([frames for _, frames in heard])

    def _excerpt(self, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Some words in a row out of a clip."""
        runs = self._runs(found)
        first = int(rng.integers(len(runs)))
        return self._cut(found, runs, first, first + int(rng.integers(1, _LONGEST_EXCERPT, endpoint=True)), rng)

    def spliced(self, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """A clip with another word of its speaker in place of one of its own; long words more often than short ones."""
        giver = pick(self._by_name.get(found.said_by or "", [found]), rng)
        if giver.transcript.isascii() != found.transcript.isascii():  # a voice of two languages
            giver = found
        runs, given = self._runs(found), self._runs(giver)
        place, word = _by_length(runs, rng), _by_length(given, rng)
        parts = [self._cut(giver, given, word, word + 1, rng)]
        if place:
            parts.insert(0, self._cut(found, runs, 0, place, rng))
        if place + 1 < len(runs):
            parts.append(self._cut(found, runs, place + 1, len(runs), rng))
        blank = " " if found.transcript.isascii() else ""
        return blank.join(words for words, _ in parts), sequences.joined([frames for _, frames in parts])

    def _runs(self, found: Utterance) -> list[tuple[str, int]]:
        """The words of a clip, each with the frame at which it ends."""
        assert self.read_along is not None
        return self.read_along.split(found.clip, found.transcript, self._codes(found.clip).shape[1], 1)

    def _cut(
        self, found: Utterance, runs: Sequence[tuple[str, int]], first: int, stop: int, rng: np.random.Generator
    ) -> tuple[str, Frames]:
        """The runs [first, stop) of a clip."""
        part = runs[first:stop]
        # where they begin, where the first of them ends and where the last one does
        places = (runs[first - 1][1] if first else 0, part[0][1], part[-1][1])
        return "".join(words for words, _ in part).strip(), self.clip(found.clip, found.transcript, rng, places)

    def clip(self, clip: str, words: str, rng: np.random.Generator, part: tuple[int, int, int] | None = None) -> Frames:
        """A clip's frames, varied, or those from `part[0]` to `part[2]`, of whose words the first ends at `part[1]`."""
        codes = heard = self._codes(clip)
        others = [store for store in self._heard_also if clip in store]
        if others and (which := int(rng.integers(len(others) + 1))):
            heard = others[which - 1][clip]
        speed, frames = codes.shape[1] / heard.shape[1], heard.shape[1]
        begin, known, end = (round(place / speed) for place in part or (0, 0, codes.shape[1]))
        begin = min(begin, frames - 1)  # one frame at least
        varied, kept = vary_codes(heard[:, begin : max(end, begin + 1)], self._sizes, self.diet.augmentation, rng)
        if self.read_along is None:
            return Frames(varied)
        along = self.read_along.heard(clip, words, frames, speed)
        along[: known if part else 0] = UNKNOWN  # a word before the excerpt is not in it
        sounds = self.read_along.sounds(clip, frames, speed)
        return Frames(varied, along[begin:][kept], sounds[begin:][kept])


def _by_length(runs: Sequence[tuple[str, int]], rng: np.random.Generator) -> int:
    """One of the runs, drawn by how long it lasts."""
    lasts = np.diff([0, *(end for _, end in runs)])
    return int(rng.choice(len(runs), p=lasts / lasts.sum()))


def vary_codes(codes: Tensor, sizes: Tensor, how: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Heard codes [K, T] with tempo, frames and fine codes disturbed: codes [K, S], and the place in T of each, [S].

    S is at least one. A frame that was replaced keeps the place of the one that belongs there.
    """
    count = codes.shape[1]
    kept = np.arange(count)
    if how.tempo:
        wanted = max(1, round(count * (1 + rng.uniform(-how.tempo, how.tempo))))
        if wanted <= count:
            kept = rng.choice(count, wanted, replace=False)
        else:
            kept = np.concatenate([kept, rng.choice(count, wanted - count)])
        kept.sort()
    shown = kept.copy()
    if how.replaced_frames:
        gone = rng.random(len(kept)) < how.replaced_frames
        shown[gone] = rng.integers(count, size=int(gone.sum()))
    varied = codes[:, torch.from_numpy(shown)]
    if how.replaced_codes:
        gone_codes = torch.from_numpy(rng.random(varied.shape) < how.replaced_codes)
        gone_codes[0] = False
        anything = (torch.from_numpy(rng.random(varied.shape)) * sizes[:, None]).long()
        varied = torch.where(gone_codes, anything, varied)
    return varied, torch.from_numpy(kept)

"""What is heard of recorded clips, as codes: whole, in pieces, with a word exchanged, woven of words; and varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .. import sequences
from ..alignment.token_alignment import UNKNOWN, ReadAlong
from ..sequences import Frames
from ..store.codes_store import CodesStore
from .config import Augmentation, MixtureConfig
from .weighted_sampling import Utterance, pick

_LONGEST_EXCERPT = 4  # words
_LONGEST_MEDLEY = 4  # excerpts
_CANDIDATES = 4  # places looked at for the next words of a text that is woven
_GOES_ON = 0.7  # chance that a woven piece may be a word longer


class Hearing:
    """Finds the frames of clips, and cuts them by what `read_along` knows (None: whole clips only).

    `codes` finds a clip's frames [K, T], `heard_also` more of them, at other speeds; `by_name` what else a
    speaker says.
    """

    def __init__(
        self,
        mixture: MixtureConfig,
        codebook_sizes: Sequence[int],
        codes: Callable[[str], Tensor],
        by_name: Mapping[str, Sequence[Utterance]],
        read_along: ReadAlong | None = None,
        heard_also: Sequence[CodesStore] = (),
    ) -> None:
        self.mixture, self.read_along = mixture, read_along
        self._codes, self._by_name, self._heard_also = codes, by_name, heard_also
        self._sizes = torch.tensor(codebook_sizes)
        self._places: dict[str, dict[str, list[tuple[Utterance, int]]]] = {}
        self._words: dict[str, list[tuple[str, int]]] = {}

    def medley(self, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Words out of one clip, and perhaps out of others of its speaker, as if said one after the other."""
        pace = rng.random()
        heard = [self._excerpt(found, pace, rng)]
        neighbours = self._by_name.get(found.said_by or "", [])
        while neighbours and len(heard) < _LONGEST_MEDLEY and rng.random() < self.mixture.medley:
            heard.append(self._excerpt(pick(neighbours, rng), pace, rng))
        words = (" " if found.transcript.isascii() else "").join(words for words, _ in heard if words)
        return words, sequences.joined([frames for _, frames in heard])

    def _excerpt(self, found: Utterance, pace: float, rng: np.random.Generator) -> tuple[str, Frames]:
        """Some words in a row out of a clip."""
        first = int(rng.integers(len(self._runs(found))))
        return self._cut(found, first, first + int(rng.integers(1, _LONGEST_EXCERPT, endpoint=True)), pace, rng)

    def spliced(self, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """A clip with another word of its speaker in place of one of its own; long words more often than short ones."""
        giver = pick(self._by_name.get(found.said_by or "", [found]), rng)
        if giver.transcript.isascii() != found.transcript.isascii():  # a voice of two languages
            giver = found
        count, pace = len(self._runs(found)), rng.random()
        place, word = _by_length(self._runs(found), rng), _by_length(self._runs(giver), rng)
        parts = [self._cut(giver, word, word + 1, pace, rng)]
        if place:
            parts.insert(0, self._cut(found, 0, place, pace, rng))
        if place + 1 < count:
            parts.append(self._cut(found, place + 1, count, pace, rng))
        blank = " " if found.transcript.isascii() else ""
        return blank.join(words for words, _ in parts), sequences.joined([frames for _, frames in parts])

    def woven(self, words: str, name: str, rng: np.random.Generator, pace: float | None = None) -> Frames | None:
        """A text in the voice `name`, put together from words out of its clips; None where it never said one.

        `pace` as for `clip`, but None picks one speed for all of it.
        """
        wanted, pieces, pace = _units(words), list[Frames](), rng.random() if pace is None else pace
        while wanted:
            found = self._longest(wanted, name, rng)
            if found is None:
                return None
            said, frames = self._cut(*found, pace, rng)
            pieces.append(frames)
            wanted = wanted[len(_units(said)) :]
        return sequences.joined(pieces) if pieces else None

    def _longest(self, wanted: Sequence[str], name: str, rng: np.random.Generator) -> tuple[Utterance, int, int] | None:
        """Of a few clips that have the first words of a text, the one that has the most: it, first run, end."""
        places = self._said(name).get(wanted[0], [])
        most, best, found = int(rng.geometric(1 - _GOES_ON)), 0, None
        for _ in range(_CANDIDATES if places else 0):
            utterance, first = pick(places, rng)
            length, stop = 0, first
            for text, _ in self._runs(utterance)[first:]:
                units = _units(text)
                if length >= most or wanted[length : length + len(units)] != units:
                    break
                length, stop = length + len(units), stop + 1
            if length > best:
                best, found = length, (utterance, first, stop)
        return found

    def _said(self, name: str) -> dict[str, list[tuple[Utterance, int]]]:
        """Where a voice says a word: the clip, and its run that begins with it."""
        if name not in self._places:
            places: dict[str, list[tuple[Utterance, int]]] = {}
            for utterance in self._by_name.get(name, []):
                for at, (text, _) in enumerate(self._runs(utterance)):
                    places.setdefault(_units(text)[0], []).append((utterance, at))
            self._places[name] = places
        return self._places[name]

    def _runs(self, found: Utterance) -> list[tuple[str, int]]:
        """The words of a clip, each with the frame at which it ends."""
        assert self.read_along is not None
        known = self._words.get(found.clip)
        if known is None:
            frames = self._codes(found.clip).shape[1]
            known = self._words[found.clip] = self.read_along.split(found.clip, found.transcript, frames, 1)
        return known

    def _cut(
        self, found: Utterance, first: int, stop: int, pace: float, rng: np.random.Generator
    ) -> tuple[str, Frames]:
        """The runs [first, stop) of a clip."""
        runs = self._runs(found)
        part = runs[first:stop]
        # where they begin, where the first of them ends and where the last one does
        places = (runs[first - 1][1] if first else 0, part[0][1], part[-1][1])
        return "".join(words for words, _ in part).strip(), self.clip(found.clip, found.transcript, rng, pace, places)

    def clip(
        self,
        clip: str,
        words: str,
        rng: np.random.Generator,
        pace: float | None = None,
        part: tuple[int, int, int] | None = None,
    ) -> Frames:
        """A clip's frames, varied, or those from `part[0]` to `part[2]`, of whose words the first ends at `part[1]`.

        `pace` in [0, 1) picks the speed, so that pieces joined to one sentence have one voice; None: any.
        """
        codes = self._codes(clip)
        paces = [codes, *(store[clip] for store in self._heard_also if clip in store)]
        heard = paces[int((rng.random() if pace is None else pace) * len(paces))]
        speed, frames = codes.shape[1] / heard.shape[1], heard.shape[1]
        begin, known, end = (round(place / speed) for place in part or (0, 0, codes.shape[1]))
        begin = min(begin, frames - 1)  # one frame at least
        varied, kept = vary_codes(heard[:, begin : max(end, begin + 1)], self._sizes, self.mixture.augmentation, rng)
        if self.read_along is None:
            return Frames(varied)
        along = self.read_along.heard(clip, words, frames, speed)
        along[: known if part else 0] = UNKNOWN  # a word before the excerpt is not in it
        sounds = self.read_along.sounds(clip, frames, speed)
        return Frames(varied, along[begin:][kept], sounds[begin:][kept])


def _units(words: str) -> list[str]:
    """What a text is woven of: words, in Mandarin characters."""
    return words.split() if words.isascii() else list(words.replace(" ", ""))


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
    if how.time_warp:
        wanted = max(1, round(count * (1 + rng.uniform(-how.time_warp, how.time_warp))))
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

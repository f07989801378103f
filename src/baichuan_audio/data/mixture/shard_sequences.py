"""Stored shards as training sequences: which there are, how long they are, and which belong to a window of steps.

What a window reads is a pure function of the seed and its number. Every epoch of a set is a permutation, so each
sequence comes once an epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, DataError
from ..sequences import SequenceBuilder, TokenSequence
from ..store.records import KINDS, Sample
from ..store.shards import IndexEntry, ShardReader, draw
from ..store.token_sequences import parts_of, sequence_length, token_sequence
from ..store.word_segments import segments_by_words
from .config import ShardSet
from .tasks import SequenceFormat


@dataclass(frozen=True)
class StoredSequence:
    """A sample, or the part of an over-long one that its segments [first, end) make; `length` in positions."""

    id: str
    kind: str
    length: int
    load: Callable[[], TokenSequence]


@dataclass(frozen=True)
class _Group:
    """The sequences of one kind of one set; `passes`: how often each is read in a pass over all sets."""

    sequences: tuple[StoredSequence, ...]
    passes: float

    @property
    def positions(self) -> float:
        return self.passes * sum(sequence.length for sequence in self.sequences)


class ShardSequences:
    """The sequences of one split of several sets of shards.

    languages: which are read, empty for all; a sample without a language (nobody speaks in it) is read with any.
    `left_out`: id and reason of each sample that is not read; `split`: the number of samples read in parts.

    Raises:
        DataError: a set holds no codes, or those of other codebooks, or no sample of the split.
        ConfigError: an entry names no kind of sample.
    """

    def __init__(
        self,
        sets: Sequence[ShardSet],
        layout: SequenceFormat,
        split: str = "train",
        max_length: int = 8192,
        languages: Sequence[str] = (),
    ) -> None:
        self.left_out: list[tuple[str, str]] = []
        self.split = 0
        self._layout, self._num_codebooks, self._max_length = layout, len(layout.codebook_sizes), max_length
        self._builder = SequenceBuilder(layout.tokenizer, layout.special, self._num_codebooks)
        self._groups: list[_Group] = []
        for shards in sets:
            self._groups += self._groups_of(shards, split, set(languages))
        self.sequences = [sequence for group in self._groups for sequence in group.sequences]

    def _groups_of(self, shards: ShardSet, split: str, languages: set[str]) -> Iterator[_Group]:
        """One group a kind."""
        if unknown := [kind for kind in shards.kinds if kind not in KINDS]:
            raise ConfigError(f"dataset: there is no kind '{unknown[0]}'; there are {', '.join(KINDS)}.")
        reader = ShardReader(shards.path)
        if len(reader) and "codes.npy" not in reader.entries[0].members:
            raise DataError(f"{shards.path}: shards without codes; make them with `baichuan-audio data tokenize`.")
        entries = [
            entry
            for entry in reader.entries
            if entry.split == split and (not languages or not entry.language or entry.language in languages)
            if shards.kinds.get(entry.kind, 1.0) > 0
        ]
        hours = sum(entry.seconds for entry in entries) / 3600
        passes = shards.weight * (1.0 if shards.hours is None or not hours else shards.hours / hours)
        for kind in KINDS:
            chosen = [entry for entry in entries if entry.kind == kind]
            sequences = tuple(sequence for entry in chosen for sequence in self._sequences_of(reader, entry))
            if sequences:
                yield _Group(sequences, passes * shards.kinds.get(kind, 1.0))

    def _sequences_of(self, reader: ShardReader, entry: IndexEntry) -> Iterator[StoredSequence]:
        sample = self._sample(reader, entry)
        name = f"{Path(reader.root).name}/{entry.id}"
        length = sequence_length(sample, self._builder, self._num_codebooks)
        if length <= self._max_length:
            yield StoredSequence(name, entry.kind, length, functools.partial(self._load, reader, entry, name))
            return
        parts = parts_of(sample, self._builder, self._num_codebooks, self._max_length)
        if not parts:
            reason = f"{length} positions, more than {self._max_length}, and not to be split"
            self.left_out.append((name, reason))
            return
        self.split += 1
        for number, (first, end, positions) in enumerate(parts, 1):
            part = f"{name}#{number}"
            load = functools.partial(self._load, reader, entry, part, first, end)
            yield StoredSequence(part, entry.kind, positions, load)

    def _sample(self, reader: ShardReader, entry: IndexEntry) -> Sample:
        sample, letters = reader.sample(entry), self._layout.interleave_min_letters
        return sample if letters is None else segments_by_words(sample, self._layout.tokenizer, letters)

    def _load(
        self, reader: ShardReader, entry: IndexEntry, name: str, first: int = 0, end: int | None = None
    ) -> TokenSequence:
        codes = reader.codes(entry)
        if codes is None or codes.shape[0] != self._num_codebooks:
            have = "no codes" if codes is None else f"codes of {codes.shape[0]} codebooks"
            raise DataError(
                f"{name}: {have}, the model has {self._num_codebooks}; run `data tokenize` with its tokenizer."
            )
        return token_sequence(self._sample(reader, entry), codes, self._builder, first, end).named(name, entry.kind)

    def window(self, number: int, positions: int, seed: int) -> list[StoredSequence]:
        """About `positions` positions: the sequences of window `number` 0.., each group by its share.

        A group's share is the same in every window but for one sequence.
        """
        scale = positions / sum(group.positions for group in self._groups)
        drawn: list[StoredSequence] = []
        for number_of_group, group in enumerate(self._groups):
            rate = scale * group.passes * len(group.sequences)
            first, end = int(number * rate), int((number + 1) * rate)
            drawn += [
                group.sequences[index] for index in draw(len(group.sequences), (seed, number_of_group), first, end)
            ]
        return drawn

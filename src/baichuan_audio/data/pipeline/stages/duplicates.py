"""Duplicates across sources: pieces that sound the same, whatever their level, codec or file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...store.records import Dropped, Piece
from ..engine.cross_stage import CrossStage
from ..engine.stage import StageResult
from .filters import drop
from .fingerprint import chance, differences, words_of

_BLOCK = 1024  # pieces whose fingerprints stand in one table


@dataclass(frozen=True)
class Duplicates(CrossStage):
    """difference: share of a fingerprint's bits below which two pieces are the same; less in short pieces, which chance
    makes alike. length: how far their lengths may be apart, as a share. Of some that are the same, the first by id
    stays."""

    name: ClassVar[str] = "duplicates"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__}.fingerprint",)
    difference: float = 0.3
    length: float = 0.04

    def run_all(self, records: Mapping[str, Sequence[Any]]) -> Mapping[str, StageResult[Any]]:
        pieces = sorted(
            (piece for group in records.values() for piece in group), key=lambda p: (len(p.fingerprint), p.id)
        )
        first: dict[str, str] = {}
        for piece, other in self._pairs(pieces):
            kept, copy = sorted((piece.id, other.id))
            first.setdefault(copy, first.get(kept, kept))
        results: dict[str, StageResult[Any]] = {}
        for source, group in records.items():
            dropped: list[Dropped] = [drop(p, "duplicate", first[p.id]) for p in group if p.id in first]
            results[source] = StageResult([piece for piece in group if piece.id not in first], dropped)
        return results

    def _pairs(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Piece]]:
        """Pairs that sound the same, of pieces in the order of their fingerprints' lengths."""
        words = [words_of(piece.fingerprint) for piece in pieces]
        lengths = np.array([len(word) for word in words])
        for begin in range(0, len(pieces), _BLOCK):
            end = int(np.searchsorted(lengths, self._longest(lengths[min(begin + _BLOCK, len(pieces)) - 1]), "right"))
            table = np.zeros((end - begin, int(lengths[begin:end].max())), np.uint16)
            for row, word in zip(table, words[begin:end], strict=True):
                row[: len(word)] = word
            for index in range(begin, min(begin + _BLOCK, end)):
                last = int(np.searchsorted(lengths, self._longest(lengths[index]), "right"))
                apart = differences(words[index], table[index + 1 - begin : last - begin])
                alike = np.flatnonzero(apart < min(self.difference, chance(lengths[index])))
                for other in (alike + index + 1).tolist():
                    if pieces[index].source != pieces[other].source:
                        yield pieces[index], pieces[other]

    def _longest(self, steps: int) -> float:
        return steps * (1 + self.length) + 2

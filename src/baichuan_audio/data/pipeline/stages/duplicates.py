"""Duplicates across sources: pieces that sound the same, whatever their level, codec or file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...store.records import Dropped, Piece
from ..engine.cross_stage import CrossStage
from ..engine.stage import StageResult
from .filters import drop
from .fingerprint import difference


@dataclass(frozen=True)
class Duplicates(CrossStage):
    """difference: share of a fingerprint's bits below which two pieces are the same; length: how far their lengths may
    be apart, as a share. Of some that are the same, the first by id stays."""

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
        for index, piece in enumerate(pieces):
            for other in pieces[index + 1 :]:
                if len(other.fingerprint) > len(piece.fingerprint) * (1 + self.length) + 8:
                    break
                if piece.source != other.source and self._same(piece, other):
                    kept, copy = sorted((piece.id, other.id))
                    first.setdefault(copy, first.get(kept, kept))
        results: dict[str, StageResult[Any]] = {}
        for source, group in records.items():
            dropped: list[Dropped] = [drop(p, "duplicate", first[p.id]) for p in group if p.id in first]
            results[source] = StageResult([piece for piece in group if piece.id not in first], dropped)
        return results

    def _same(self, one: Piece, other: Piece) -> bool:
        if len(one.fingerprint) < 20:  # under a second: too little to tell
            return False
        return difference(one.fingerprint, other.fingerprint) < self.difference

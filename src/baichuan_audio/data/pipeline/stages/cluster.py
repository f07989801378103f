"""Speakers across files: pieces -> the same name for the same voice, wherever it was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...store.atomic import text_digest
from ...store.records import Piece
from ..backends.speakers import unit_length, unpack
from ..clustering import average_linkage
from ..engine.cross_stage import CrossStage
from ..engine.stage import StageResult


@dataclass(frozen=True)
class Cluster(CrossStage):
    """within, across: cosine distances up to which the voices of one source, then of different ones, are joined.

    declared: a speaker whom the source names is believed and not clustered.
    """

    name: ClassVar[str] = "cluster"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.clustering",)
    within: float = 0.5
    across: float = 0.42
    declared: bool = True

    def run_all(self, records: Mapping[str, Sequence[Any]]) -> Mapping[str, StageResult[Any]]:
        voices: list[np.ndarray] = []
        members: list[list[Piece]] = []
        for _, pieces in sorted(records.items()):
            unnamed = [p for p in pieces if p.embedding and not (self.declared and p.speaker)]
            if not unnamed:
                continue
            embeddings = np.stack([unpack(piece.embedding) for piece in unnamed])
            weighted = embeddings * np.array([piece.seconds for piece in unnamed], np.float32)[:, None]
            labels = average_linkage(embeddings, self.within)
            for number in range(int(labels.max()) + 1):
                voices.append(weighted[labels == number].sum(axis=0))
                members.append([piece for piece, label in zip(unnamed, labels, strict=True) if label == number])
        names: dict[str, str] = {}
        if voices:
            labels = average_linkage(unit_length(np.stack(voices)), self.across)
            for number in range(int(labels.max()) + 1):
                groups = [members[index] for index in np.flatnonzero(labels == number)]
                # Named by its first piece, so that the name outlives other files coming and going.
                name = f"speaker-{text_digest(min(piece.id for group in groups for piece in group))[:10]}"
                names |= {piece.id: name for group in groups for piece in group}
        return {
            source: StageResult([dataclasses.replace(p, speaker=names.get(p.id, p.speaker or source)) for p in pieces])
            for source, pieces in records.items()
        }

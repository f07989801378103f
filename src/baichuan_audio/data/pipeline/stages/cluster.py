"""Speakers across files: pieces -> the same name for the same voice, wherever it was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...store.atomic import text_digest
from ...store.records import Piece
from ..backends.speakers import unpack, voice_space
from ..clustering import average_linkage
from ..engine.cross_stage import CrossStage
from ..engine.stage import StageResult


@dataclass(frozen=True)
class Cluster(CrossStage):
    """within, across: cosine distances up to which the voices of one source, then of different ones, are joined.

    declared: a speaker whom the source names is believed and not clustered. backend: the one whose embeddings the
    pieces have; a recipe sets it to that of its stage `speakers`.
    """

    name: ClassVar[str] = "cluster"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.clustering",)
    within: float = 0.65
    across: float = 0.45
    declared: bool = True
    backend: str = "resemblyzer"

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("speakers", self.backend),)

    def run_all(self, records: Mapping[str, Sequence[Any]]) -> Mapping[str, StageResult[Any]]:
        project = voice_space(self.backend)
        voices: list[np.ndarray] = []
        members: list[list[Piece]] = []
        for _, pieces in sorted(records.items()):
            unnamed = [p for p in pieces if p.embedding and not (self.declared and p.speaker)]
            if not unnamed:
                continue
            embeddings = np.stack([unpack(piece.embedding) for piece in unnamed])
            weighted = embeddings * np.array([piece.seconds for piece in unnamed], np.float32)[:, None]
            labels = average_linkage(project(embeddings), self.within)
            for number in range(int(labels.max()) + 1):
                voices.append(weighted[labels == number].sum(axis=0))
                members.append([piece for piece, label in zip(unnamed, labels, strict=True) if label == number])
        names: dict[str, str] = {}
        if voices:
            labels = average_linkage(project(np.stack(voices)), self.across)
            for number in range(int(labels.max()) + 1):
                groups = [members[index] for index in np.flatnonzero(labels == number)]
                # Named by its first piece, so that the name outlives other files coming and going.
                name = f"speaker-{text_digest(min(piece.id for group in groups for piece in group))[:10]}"
                names |= {piece.id: name for group in groups for piece in group}
        return {
            source: StageResult([dataclasses.replace(p, speaker=names.get(p.id, p.speaker or source)) for p in pieces])
            for source, pieces in records.items()
        }

"""Quality filters: bandwidth, clipping, music, mean opinion score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...store.atomic import text_fraction
from ...store.records import Dropped, Piece
from ..audio_access import ANALYSIS_RATE, read_piece
from ..backends.registry import load_backend
from ..engine.stage import Context, Stage, StageResult
from ..signal_measures import bandwidth_hz, clipping, tone_share
from .filters import drop


@dataclass(frozen=True)
class Quality(Stage[Piece, Piece]):
    """bandwidth_hz at least; clipping and tones at most (`signal_measures`); mos: the least overall score.

    mos_share: of pieces that are scored, chosen by their id; the others pass. mos 0 scores none.
    """

    name: ClassVar[str] = "quality"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.signal_measures",)
    backend: str = "dnsmos"
    bandwidth_hz: float = 5000.0
    clipping: float = 1.4
    tones: float = 0.25
    mos: float = 1.8
    mos_share: float = 1.0

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("mos", self.backend),) if self.mos > 0 else ()

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece in records:
            samples = read_piece(context.recordings, piece)
            piece = piece.scored(
                bandwidth_hz=bandwidth_hz(samples, ANALYSIS_RATE),
                clipping=clipping(samples),
                tones=tone_share(samples),
            )
            reason = self._reason(piece)
            if reason is None and self._scored(piece):
                scores = load_backend("mos", self.backend)(samples)
                piece = piece.scored(**{f"mos_{name}": value for name, value in scores.items()})
                if piece.scores["mos_ovrl"] < self.mos:
                    reason = "mean opinion score"
            if reason is None:
                kept.append(piece)
            else:
                dropped.append(drop(piece, reason, _figures(piece)))
        return StageResult(kept, dropped)

    def _reason(self, piece: Piece) -> str | None:
        if piece.scores["bandwidth_hz"] < self.bandwidth_hz:
            return "bandwidth"
        if piece.scores["clipping"] > self.clipping:
            return "clipped"
        return "music" if piece.scores["tones"] > self.tones else None

    def _scored(self, piece: Piece) -> bool:
        return self.mos > 0 and text_fraction(piece.id) < self.mos_share


def _figures(piece: Piece) -> str:
    return " ".join(f"{name} {value:g}" for name, value in sorted(piece.scores.items()))

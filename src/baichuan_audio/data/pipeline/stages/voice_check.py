"""Synthetic speech keeps to one voice: lines in which it changes are dropped; the others get an embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...store.records import Dropped, Piece
from ..audio_access import ANALYSIS_RATE, read_piece
from ..backends.registry import load_backend
from ..backends.speakers import SpeakerEncoder, pack
from ..engine.stage import Context, Stage, StageResult
from .filters import drop
from .speakers import change_point, windows_of


@dataclass(frozen=True)
class VoiceCheck(Stage[Piece, Piece]):
    """change: cosine similarity of a line's halves below which the voice has changed. Lines are kept as they are: a
    synthetic line is neither split nor joined."""

    name: ClassVar[str] = "voice_check"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__}.speakers",)
    backend: str = "campplus"
    change: float = 0.4

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("speakers", self.backend),)

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        encode: SpeakerEncoder = load_backend("speakers", self.backend)
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece in records:
            size = round(encode.window_s * ANALYSIS_RATE)
            windows = encode(windows_of(read_piece(context.recordings, piece), size, size // 2))
            _, similarity = change_point(windows)
            if similarity < self.change:
                dropped.append(drop(piece, "the voice changes", f"{similarity:.2f}"))
                continue
            mean = windows.mean(axis=0)
            kept.append(dataclasses.replace(piece, embedding=pack(mean / max(float(np.linalg.norm(mean)), 1e-9))))
        return StageResult(kept, dropped)

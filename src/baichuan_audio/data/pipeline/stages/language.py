"""Language: the piece sounds like the language that its source declares, or like one that is wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...store.records import Dropped, Piece
from ..audio_access import ANALYSIS_RATE, read_piece
from ..backends.asr import LanguageGuesser
from ..backends.registry import load_backend
from ..engine.stage import Context, Stage, StageResult
from .filters import drop


@dataclass(frozen=True)
class Language(Stage[Piece, Piece]):
    """languages: those that are wanted. probability: of the guess, for a piece whose language nobody declared.

    A declared language is believed unless another one is `against` or more likely. backend "declared" believes all.
    A piece of less than `shortest_s` is too short to contradict what is declared.
    """

    name: ClassVar[str] = "language"
    record: ClassVar[type] = Piece
    backend: str = "whisper:base"
    languages: tuple[str, ...] = ("en", "zh")
    probability: float = 0.7
    against: float = 0.7
    shortest_s: float = 1.0

    def backends(self) -> Sequence[tuple[str, str]]:
        return () if self.backend == "declared" else (("language", self.backend),)

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        guesser: LanguageGuesser | None = None
        if self.backend != "declared":
            guesser = load_backend("language", self.backend)
        for piece in records:
            if guesser is None or (piece.language and piece.seconds < self.shortest_s):
                guesses = {piece.language or "unknown": 1.0}
            else:
                guesses = guesser.probabilities(read_piece(context.recordings, piece)[: 30 * ANALYSIS_RATE])
            likeliest, probability = max(guesses.items(), key=lambda guess: guess[1])
            piece = piece.scored(language=guesses.get(piece.language or likeliest, 0.0))
            if piece.language and likeliest != piece.language and probability >= self.against:
                detail = f"{likeliest} {probability:.2f}"
                dropped.append(drop(piece, "another language than declared", detail))
            elif (piece.language or likeliest) not in self.languages:
                dropped.append(drop(piece, "language not wanted", piece.language or likeliest))
            elif not piece.language and probability < self.probability:
                dropped.append(drop(piece, "language uncertain", f"{likeliest} {probability:.2f}"))
            else:
                kept.append(dataclasses.replace(piece, language=piece.language or likeliest))
        return StageResult(kept, dropped)

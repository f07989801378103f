"""Loops and hallucinations: texts that no speech has, however sure a recogniser is of them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...store.records import Dropped, Piece
from ..engine.stage import Context, Stage, StageResult
from ..spoken_units import spoken
from .filters import drop

_INVENTED = (
    "thanks for watching", "thank you for watching", "please subscribe", "subtitles by", "amara.org",
    "字幕由", "字幕by", "请不吝点赞", "订阅我的频道", "谢谢观看", "感谢观看", "简体中文写成",
)  # fmt: skip
"""What Whisper writes over silence and music, its own prompt among it."""


@dataclass(frozen=True)
class Repetition(Stage[Piece, Piece]):
    """repeated: the most often a run of words may follow itself; distinct: the least share of different units in a
    text of 12 or more; compression: the most of its bytes' ratio to packed ones; slowest and fastest: units a second.
    """

    name: ClassVar[str] = "repetition"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.spoken_units",)
    repeated: int = 3
    distinct: float = 0.35
    compression: float = 2.6
    longest_word: int = 25
    slowest: float = 0.4
    fastest_en: float = 6.5
    fastest_zh: float = 10.0

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece in records:
            reason = self.reason(piece.text or "", piece.language or "en", piece.seconds)
            if reason:
                dropped.append(drop(piece, reason, (piece.text or "")[:200]))
            else:
                kept.append(piece)
        return StageResult(kept, dropped)

    def reason(self, text: str, language: str, seconds: float) -> str | None:
        """Why a text is not what somebody said in so many seconds; None where it may be."""
        words = spoken(text, language)
        if not words:
            return "no words"
        lowered = text.lower()
        if any(phrase in lowered for phrase in _INVENTED):
            return "invented by the recogniser"
        if longest_loop(words) > self.repeated:
            return "repeated words"
        packed = text.encode("utf-8")
        dense = len(packed) / len(zlib.compress(packed)) > self.compression
        if len(words) >= 12 and (len(set(words)) < self.distinct * len(words) or dense):
            return "repeated words"
        if max(len(word) for word in words) >= self.longest_word:
            return "impossible word"
        rate = len(words) / max(seconds, 1e-3)
        fastest = self.fastest_zh if language == "zh" else self.fastest_en
        if len(words) > 3 and rate > fastest:
            return "more words than time"
        return "fewer words than time" if rate < self.slowest else None


def longest_loop(words: Sequence[str], longest: int = 8) -> int:
    """How often the same run of 1 to `longest` words follows itself, at most."""
    best = 1
    for size in range(1, longest + 1):
        counts: Counter[int] = Counter()
        run = 0
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else 0
            counts[size] = max(counts[size], run // size + 1)
        best = max(best, counts[size])
    return best

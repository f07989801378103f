"""Recognition by an ensemble: the text on which recognisers, and the transcript where there is one, agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...store.atomic import text_fraction
from ...store.records import Dropped, Piece
from ..audio_access import read_piece
from ..backends.asr import Hypothesis
from ..backends.registry import load_backend
from ..engine.stage import Context, Stage, StageResult
from ..spoken_units import distribute, error_rate, join, spoken, units
from .filters import drop

_GIVEN = "transcript"


@dataclass(frozen=True)
class Recognise(Stage[Piece, Piece]):
    """recognisers: names of backends; none takes the given transcripts as they are.

    disagreement: the most errors a unit (words, Mandarin characters) between the two closest of what there is
    (recognisers and the transcript); disagreement_given: the most errors a letter between a transcript and the closest
    recogniser, of Mandarin `disagreement_given_zh` a character. By letters, since a misheard word of a child or learner
    keeps most of them, and a wrong transcript does not.
    share: of the pieces with a transcript that are recognised, chosen by their ids; the others pass.
    A language that only one recogniser writes has nothing to agree with: its text passes by `confidence`.
    """

    name: ClassVar[str] = "recognise"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.spoken_units",)
    recognisers: tuple[str, ...] = ("whisper:base", "pocketsphinx")
    disagreement: float = 0.6
    disagreement_given: float = 0.5
    disagreement_given_zh: float = 0.6
    confidence: float = 0.55
    share: float = 1.0

    def backends(self) -> Sequence[tuple[str, str]]:
        return tuple(("asr", name) for name in self.recognisers)

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        written = [self._hypotheses(piece, context) for piece in records]
        pieces = _hand_out(records, written)
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece, hypotheses in zip(pieces, written, strict=True):
            result = self._decide(piece, hypotheses)
            if isinstance(result, Dropped):
                dropped.append(result)
            else:
                kept.append(result)
        return StageResult(kept, dropped)

    def _hypotheses(self, piece: Piece, context: Context) -> dict[str, Hypothesis]:
        hypotheses: dict[str, Hypothesis] = {}
        if piece.given and text_fraction(piece.id) >= self.share:
            return {}
        samples = read_piece(context.recordings, piece) if self.recognisers else None
        for name in self.recognisers:
            hypothesis = load_backend("asr", name)(samples, piece.language or "en")
            if hypothesis is not None:
                hypotheses[name] = hypothesis
        return hypotheses

    def _decide(self, piece: Piece, hypotheses: dict[str, Hypothesis]) -> Piece | Dropped:
        texts = {name: hypothesis.text for name, hypothesis in hypotheses.items()}
        confidences = [h.confidence for h in hypotheses.values() if not math.isnan(h.confidence)]
        if confidences:
            piece = piece.scored(asr_confidence=max(confidences))
        if piece.given and piece.text:
            rates = _rates(piece.text, texts, piece.language)
            if not rates:
                return piece
            letters = min(_rates(piece.text, texts, piece.language, by_letters=True))
            piece = piece.scored(disagreement=min(rates), letter_disagreement=letters)
            most = self.disagreement_given_zh if piece.language == "zh" else self.disagreement_given
            if letters > most:
                transcripts = " | ".join(texts.values())
                return drop(piece, "transcript differs from what is said", f"{letters:.2f}: {transcripts}"[:300])
            return piece
        texts = {name: text for name, text in texts.items() if units(text)}
        if not texts:
            return drop(piece, "nothing recognised")
        if len(texts) == 1:
            (name, text), *_ = texts.items()
            if not confidences or max(confidences) < self.confidence:
                return drop(piece, "recogniser uncertain", text[:200])
        else:
            # The first recogniser of the recipe is the one whose text is kept: the others only confirm it.
            name, text = next(iter(texts.items()))
            rates = _rates(text, {other: value for other, value in texts.items() if other != name}, piece.language)
            piece = piece.scored(disagreement=min(rates))
            sure = bool(confidences) and max(confidences) >= self.confidence
            if min(rates) > self.disagreement and not sure:
                return drop(piece, "recognisers disagree", " | ".join(texts.values())[:300])
        return dataclasses.replace(piece, text=text.strip(), transforms=(*piece.transforms, f"text by {name}"))


def _rates(text: str, others: dict[str, str], language: str | None, by_letters: bool = False) -> list[float]:
    reference, *hypotheses = (spoken(t, language) for t in (text, *others.values()))
    if by_letters:
        reference, hypotheses = list("".join(reference)), [list("".join(units)) for units in hypotheses]
    return [error_rate(reference, hypothesis) for hypothesis in hypotheses]


def _hand_out(pieces: Sequence[Piece], written: Sequence[dict[str, Hypothesis]]) -> list[Piece]:
    """A transcript of the whole source to its pieces, by what the first recogniser wrote of each."""
    transcript = next((p.extra["transcript"] for p in pieces if "transcript" in p.extra), None)
    if transcript is None:
        return list(pieces)
    named = units(transcript)
    firsts = [next(iter(hypotheses.values())).text if hypotheses else "" for hypotheses in written]
    ends = distribute([unit.spoken for unit in named], [[u.spoken for u in units(text)] for text in firsts])
    assigned, start = [], 0
    for piece, end in zip(pieces, ends, strict=True):
        extra = {key: value for key, value in piece.extra.items() if key != "transcript"}
        last = named[end].first if end < len(named) else len(transcript)
        text = transcript[named[start].first : last] if start < end else ""
        assigned.append(
            dataclasses.replace(piece, text=join([text], piece.language) or None, given=bool(text), extra=extra)
        )
        start = end
    return assigned

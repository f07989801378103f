"""Pieces -> training samples of all kinds, with the loss mask of every segment (docs/model.md, 8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ....language_model.prompt import TRANSCRIBE_INSTRUCTION, voice_instruction
from ...store.atomic import text_fraction
from ...store.records import SAMPLE_RATE, Draft, Part, Piece, Sample, Segment, Word
from ..engine.stage import Context, Stage, StageResult

_MADE_OF_PASSAGES = ("itts", "intlv")
_MADE_OF_PIECES = ("asr", "tts", "audio")
JOINED = "pieces joined"
_PROMPTS = {("s2tt", "en"): "Translate the speech into Chinese: ", ("s2tt", "zh"): "将语音翻译成英文："}
"""What stands before the audio of a translation; a spoken question needs nothing."""


@dataclass(frozen=True)
class Assemble(Stage[Piece, Draft]):
    """kinds: what is made, and of which share of the passages or pieces (chosen by their ids).

    A passage is made of neighbouring pieces of one speaker, at most `gap_s` apart, up to `longest_s`. An interleaved
    sample needs `clauses` clauses. validation, test: shares of speakers that are held out, where an item does not say
    its split. Items of the text road (piece.extra["kind"]) become what they were written for; pairs: share of a
    dialogue's lines that become pairs of speech and text (ASR, and of replies TTS) too.
    """

    name: ClassVar[str] = "assemble"
    record: ClassVar[type] = Draft
    kinds: dict[str, float] = field(
        default_factory=lambda: {"itts": 1.0, "intlv": 1.0, "asr": 1.0, "tts": 1.0, "audio": 1.0}
    )
    gap_s: float = 5.0
    longest_s: float = 300.0
    clauses: int = 2
    validation: float = 0.0
    test: float = 0.0
    pairs: float = 0.0

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Draft]:
        drafts: list[Draft] = []
        plain = [piece for piece in records if piece.extra.get("kind", "text") == "text"]
        for passage in self.passages(plain):
            for kind in _MADE_OF_PASSAGES:
                if self._wanted(kind, passage[0].id):
                    drafts += self._interleaved(kind, passage)
        for piece in plain:
            for kind in ("asr",) if piece.text == "" else _MADE_OF_PIECES:  # where nobody speaks, nothing is read aloud
                if self._wanted(kind, piece.id):
                    drafts.append(self._of_piece(kind, piece))
        written = [piece for piece in records if piece.extra.get("kind", "text") != "text"]
        for _, item in itertools.groupby(written, key=lambda piece: piece.extra["item"]):
            drafts += self._of_item(list(item))
        return StageResult(drafts)

    def passages(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        passage: list[Piece] = []
        seconds = 0.0
        for piece in pieces:
            fits = (
                passage
                and piece.speaker == passage[-1].speaker
                and piece.language == passage[-1].language
                and piece.audio == passage[-1].audio
                and piece.start - passage[-1].end <= self.gap_s * SAMPLE_RATE
                and seconds + piece.seconds <= self.longest_s
            )
            if passage and not fits:
                yield passage
                passage, seconds = [], 0.0
            passage.append(piece)
            seconds += piece.seconds
        if passage:
            yield passage

    def _wanted(self, kind: str, name: str) -> bool:
        return text_fraction(kind, name) < self.kinds.get(kind, 0.0)

    def _interleaved(self, kind: str, passage: Sequence[Piece]) -> list[Draft]:
        """ITTS: each clause as text, then as audio, everything learnt but the first text. INTLV: clauses as audio and
        as text in turn, only the text learnt; of the clauses that are text the sound is left out."""
        clauses = [(piece, clause) for piece in passage for clause in piece.clauses if clause.text]
        if len(clauses) < self.clauses:
            return []
        builder = _Builder(passage[0])
        for index, (piece, clause) in enumerate(clauses):
            if kind == "itts":
                builder.text(_after(clause.text, piece, index), loss=index > 0)
                builder.audio(piece, clause.start, clause.end, clause.text, loss=True)
            elif index % 2 == 0:
                builder.audio(piece, clause.start, clause.end, clause.text, loss=False)
            else:
                builder.text(_after(clause.text, piece, index), loss=True)
        return [builder.finish(kind, passage[0].id, self._split(passage[0]))]

    def _of_piece(self, kind: str, piece: Piece) -> Draft:
        builder = _Builder(piece)
        if kind == "asr":
            builder.text(TRANSCRIBE_INSTRUCTION, loss=False, role="prompt")
            builder.audio(piece, piece.start, piece.end, piece.text or "", loss=False, role="user")
            builder.text(piece.text or "", loss=True)
        elif kind == "tts":
            if voice := piece.extra.get("voice"):
                builder.text(voice_instruction(voice), loss=False, role="system")
            for index, clause in enumerate(piece.clauses):
                builder.text(_after(clause.text, piece, index), loss=False)
                builder.audio(piece, clause.start, clause.end, clause.text, loss=True)
        else:
            builder.audio(piece, piece.start, piece.end, piece.text or "", loss=True)
        return builder.finish(kind, piece.id, self._split(piece))

    def _of_item(self, lines: Sequence[Piece]) -> list[Draft]:
        """One item of the text road. Where a line was found wrong, the item is given up and its lines that are right
        become pairs of speech and text: what users say goes to ASR, what is replied to TTS."""
        first, last = lines[0], lines[-1]
        kind, whole = first.extra["kind"], len(lines) == int(first.extra["lines"])
        if not whole:
            return [self._of_piece("asr" if piece.extra["role"] == "user" else "tts", piece) for piece in lines]
        pairs = [
            self._of_piece(pair, piece)
            for piece in lines
            for pair in (("asr",) if piece.extra["role"] == "user" else ("asr", "tts"))
            if text_fraction(f"pair {pair}", piece.id) < self.pairs
        ]
        builder = _Builder(first)
        if kind in ("aqa", "s2tt"):
            builder.text(_PROMPTS.get((kind, first.language or ""), ""), loss=False, role="prompt")
            builder.audio(first, first.start, first.end, first.text or "", loss=False, role="user")
            builder.text(first.extra["answer"], loss=True)
        else:
            system = first.extra.get("system") or (voice_instruction("{voice}") if last.extra.get("voice") else "")
            builder.text(system.replace("{voice}", last.extra.get("voice", "")), loss=False, role="system")
            for piece in lines:
                if piece.extra["role"] == "user":
                    builder.audio(piece, piece.start, piece.end, piece.text or "", loss=False, role="user")
                    continue
                for index, clause in enumerate(piece.clauses):
                    builder.text(_after(clause.text, piece, index), loss=True)
                    builder.audio(piece, clause.start, clause.end, clause.text, loss=True)
        return [builder.finish(kind, first.extra["item"], self._split(last)), *pairs]

    def _split(self, piece: Piece) -> str:
        if split := piece.extra.get("split"):
            return split
        fraction = text_fraction("split", piece.speaker or piece.source)
        if fraction < self.test:
            return "test"
        return "validation" if fraction < self.test + self.validation else "train"


def _after(text: str, piece: Piece, index: int) -> str:
    """A clause's text with the blank that leads it where another one stands before it."""
    return text if index == 0 or piece.language == "zh" else f" {text}"


class _Builder:
    """Puts a sample together: its segments, its sound, the times of its words within that sound."""

    def __init__(self, first: Piece) -> None:
        self._first = first
        self._pieces: list[Piece] = []
        self._segments: list[Segment] = []
        self._parts: list[Part] = []
        self._words: list[Word] = []
        self._samples = 0

    def text(self, text: str, loss: bool, role: str = "reply") -> None:
        if text or loss:  # an empty transcript is learnt too: its reply ends at once
            self._segments.append(Segment("text", text, loss=loss, role=role))

    def audio(self, piece: Piece, start: int, end: int, text: str, loss: bool, role: str = "reply") -> None:
        self._parts.append(Part(piece.audio, start, end, piece.gain))
        self._pieces.append(piece)
        shift = self._samples - start
        for word in piece.words:
            if start <= (word.start + word.end) // 2 < end:
                self._words.append(Word(word.text, max(word.start, start) + shift, min(word.end, end) + shift))
        self._segments.append(Segment("audio", text, start + shift, end + shift, loss, role))
        self._samples += end - start

    def finish(self, kind: str, name: str, split: str) -> Draft:
        first = self._first
        transforms = list(dict.fromkeys(transform for piece in self._pieces for transform in piece.transforms))
        gaps = any(a.end != b.start or a.audio != b.audio for a, b in itertools.pairwise(self._parts))
        sample = Sample(
            id=f"{kind}:{name}",
            kind=kind,
            language=first.language or "",
            speaker=first.speaker or "",
            license=" / ".join(dict.fromkeys(piece.license for piece in self._pieces)),
            origin=" / ".join(dict.fromkeys(piece.origin for piece in self._pieces)),
            source=first.source,
            transforms=(*transforms, JOINED) if gaps else tuple(transforms),
            samples=self._samples,
            segments=tuple(self._segments),
            words=tuple(self._words),
            scores=first.scores,
            split=split,
        )
        return Draft(sample, tuple(_merged(self._parts)))


def _merged(parts: Sequence[Part]) -> Iterator[Part]:
    """Parts that follow each other in the same recording as one."""
    last: Part | None = None
    for part in parts:
        if last is not None and last.audio == part.audio and last.end == part.start and last.gain == part.gain:
            last = Part(last.audio, last.start, part.end, last.gain)
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last

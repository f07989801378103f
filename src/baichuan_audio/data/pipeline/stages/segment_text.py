"""Segmentation: an item of the text road -> the lines that are spoken, cut where a speaker would pause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...store.records import Dropped, Line, Script, TextItem
from ..backends.registry import load_backend
from ..backends.text_models import Splitter
from ..engine.stage import Context, Stage, StageResult


@dataclass(frozen=True)
class SegmentText(Stage[TextItem, Script]):
    """longest: characters a line of English (a third of it for Mandarin). A question and each turn are lines of their
    own, however long."""

    name: ClassVar[str] = "segment_text"
    record: ClassVar[type] = Script
    backend: str = "rules"
    longest: int = 240

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("text", self.backend),)

    def run(self, records: Sequence[TextItem], context: Context) -> StageResult[Script]:
        kept: list[Script] = []
        dropped: list[Dropped] = []
        for item in records:
            lines = tuple(
                Line(item.id, number, role, item.language, text)
                for number, (role, text) in enumerate(self._lines(item))
            )
            if lines:
                kept.append(Script(item, lines))
            else:
                dropped.append(Dropped(item.id, item.id, item.origin, "no text"))
        return StageResult(kept, dropped)

    def _lines(self, item: TextItem) -> Iterator[tuple[str, str]]:
        if item.kind == "sft":
            for turn in item.turns:
                yield "user", turn.user
                yield "reply", turn.reply
        elif item.kind == "text":
            split: Splitter = load_backend("text", self.backend)
            longest = self.longest // 3 if item.language == "zh" else self.longest
            for line in split(item.text, item.language, longest):
                yield "reply", line
        elif item.text.strip():
            yield "user", item.text.strip()

"""Text normalisation: lines as they are spoken, figures and signs in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ....errors import ConfigError
from ....text.normalization import normalize_for_speech
from ...store.records import Dropped, Line, Script
from ..backends.registry import require
from ..engine.stage import Context, Stage, StageResult
from ..spoken_units import units

_RULES = (
    *("amounts", "dates", "formulas", "identifiers", "languages", "markdown", "normalize", "number_words", "numbers"),
    *("roman", "rules", "units"),
)


@dataclass(frozen=True)
class NormaliseText(Stage[Script, Script]):
    """backend: "package" (our own rules for English and Mandarin) or "wetext" (that package's transducers)."""

    name: ClassVar[str] = "normalise_text"
    record: ClassVar[type] = Script
    modules: ClassVar[tuple[str, ...]] = tuple(f"baichuan_audio.text.normalization.{name}" for name in _RULES)
    backend: str = "package"

    def run(self, records: Sequence[Script], context: Context) -> StageResult[Script]:
        kept: list[Script] = []
        dropped: list[Dropped] = []
        for script in records:
            lines = tuple(dataclasses.replace(line, spoken=self._spoken(line)) for line in script.lines)
            if all(units(line.spoken) for line in lines):
                kept.append(dataclasses.replace(script, lines=lines))
            else:
                item = script.item
                dropped.append(Dropped(item.id, item.id, item.origin, "a line without words"))
        return StageResult(kept, dropped)

    def _spoken(self, line: Line) -> str:
        if self.backend == "wetext":
            library = require("wetext", "the normaliser wetext", "wetext")
            return str(library.Normalizer(lang=line.language, operator="tn").normalize(line.text))
        if self.backend != "package":
            raise ConfigError(f"no text normaliser '{self.backend}'; there are package and wetext.")
        return normalize_for_speech(line.text, line.language)

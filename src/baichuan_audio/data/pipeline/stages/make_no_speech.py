"""Generation: items of audio without speech -> their recordings, each a piece in which nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import soundfile

from ....errors import DataError
from ...store.atomic import text_digest, written_aside
from ...store.records import SAMPLE_RATE, Piece, to_json
from ...synth.no_speech import NoSpeechConfig, NoSpeechItem, draw_item, render
from ..audio_access import recording_path
from ..engine.stage import Context, Stage, StageResult

ORIGIN = "no speech"


def no_speech_items(config: NoSpeechConfig, license: str | None) -> list[NoSpeechItem]:
    """All items of a set. Raises DataError where no licence is given."""
    if not license:
        raise DataError("audio without speech has no licence; give `license` in the recipe.")
    return [draw_item(config, index, license) for index in range(config.count)]


@dataclass(frozen=True)
class MakeNoSpeech(Stage[NoSpeechItem, Piece]):
    """The item decides everything, so there is nothing to set."""

    name: ClassVar[str] = "make_no_speech"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (render.__module__,)

    def run(self, records: Sequence[NoSpeechItem], context: Context) -> StageResult[Piece]:
        return StageResult([self._make(item, context) for item in records])

    def _make(self, item: NoSpeechItem, context: Context) -> Piece:
        audio = self.key(text_digest(to_json(item)))
        with written_aside(recording_path(context.recordings, audio)) as aside:
            soundfile.write(aside, render(item), SAMPLE_RATE, "PCM_16", format="WAV")
        return Piece(
            id=item.id,
            source=item.id,
            audio=audio,
            start=0,
            end=item.samples,
            gain=1.0,
            license=item.license,
            origin=ORIGIN,
            transforms=(f"{item.form} at {item.level_db:.1f} dBFS", "16 bit"),
            text="",
            given=True,
            extra={"split": item.split},
        )

"""Synthesis: scripts -> speech in many voices, one piece a line, in one recording an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soundfile

from ....errors import ConfigError, DataError
from ...store.atomic import text_digest, written_aside
from ...store.records import SAMPLE_RATE, Dropped, Line, Piece, Script, to_json
from ...synth.augment import AugmentConfig, augment
from ..audio_access import Samples, recording_path
from ..backends.tts import Voice
from ..engine.stage import Context, Stage, StageResult

_SILENCE_DB = 40.0


@dataclass(frozen=True)
class Synthesise(Stage[Script, Piece]):
    """voices: who asks and reads aloud; reply_voices: who replies in dialogues (all where there is none), each with the
    name by which a system prompt may choose it (`NAME=VOICE`) or without one.

    Which voice says a line depends on the item's id alone; one that is listed twice speaks twice as often.
    level_db: loudness of speech. padding_s: silence kept before and after a line. augment: what lies between a user's
    mouth and the model (room, noise, narrow channel, level, silence); replies stay as they are.
    """

    name: ClassVar[str] = "synthesise"
    record: ClassVar[type] = Piece
    voices: tuple[str, ...] = ("espeak@en-us+f3", "espeak@en-us+m3", "espeak@zh+f3", "espeak@zh+m3")
    reply_voices: tuple[str, ...] = ()
    level_db: float = -20.0
    padding_s: float = 0.15
    augment: AugmentConfig | None = None

    def backends(self) -> Sequence[tuple[str, str]]:
        names = {_voice(entry).backend for entry in (*self.voices, *self.reply_voices)}
        return tuple(("tts", name) for name in sorted(names))

    def run(self, records: Sequence[Script], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for script in records:
            try:
                kept += self._speak(script, context)
            except DataError as error:
                item = script.item
                dropped.append(Dropped(item.id, item.id, item.origin, "synthesis failed", detail=str(error)))
        return StageResult(kept, dropped)

    def _speak(self, script: Script, context: Context) -> list[Piece]:
        item, audio = script.item, self.key(text_digest(to_json(script)))
        asker = self._choose(self.voices, item.language, f"{item.id} user")
        replier = self._choose(self.reply_voices or self.voices, item.language, f"{item.id} reply")
        pieces: list[Piece] = []
        offset = 0
        path = recording_path(context.recordings, audio)
        with (
            written_aside(path) as aside,
            soundfile.SoundFile(aside, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV") as out,
        ):
            for line in script.lines:
                name = asker if line.role == "user" else replier
                samples = self._finished(_voice(name).speak(line.spoken, line.language))
                if self.augment is not None and line.role == "user":
                    samples = augment(samples, int(text_digest(item.id, str(line.number))[:8], 16), self.augment)
                out.write(samples)
                pieces.append(self._piece(script, line, name, audio, offset, offset + len(samples)))
                offset += len(samples)
        return pieces

    def _choose(self, voices: Sequence[str], language: str, seed: str) -> str:
        able = [name for name in voices if language in _voice(name).languages()]
        if not able:
            raise ConfigError(f"none of the voices speaks '{language}'; add one to synthesise.voices.")
        return able[int(text_digest(seed)[:8], 16) % len(able)]

    def _finished(self, samples: Samples) -> Samples:
        """At the common loudness, its silence cut down to `padding_s` on both sides."""
        hop = SAMPLE_RATE // 100
        frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
        power = (frames**2).mean(axis=1)
        loud = np.flatnonzero(power > power.max() * 10 ** (-_SILENCE_DB / 10))
        speech = samples[int(loud[0]) * hop : int(loud[-1] + 1) * hop]
        active = power[power > power.max() * 1e-3].mean()
        gain = min(10 ** (self.level_db / 20) / np.sqrt(active), 0.97 / np.abs(speech).max())
        silence = np.zeros(round(self.padding_s * SAMPLE_RATE), np.float32)
        return np.concatenate([silence, speech * np.float32(gain), silence])

    def _piece(self, script: Script, line: Line, voice: str, audio: str, start: int, end: int) -> Piece:
        item = script.item
        extra = {
            "item": item.id,
            "kind": item.kind,
            "lines": str(len(script.lines)),
            "role": line.role,
            "written": line.text,
            "answer": item.answer,
            "system": item.system,
            "voice": voice.rpartition("=")[0],
            "split": item.split,
        }
        changed = ("augmented",) if self.augment is not None and line.role == "user" else ()
        return Piece(
            id=f"{item.id}@{line.number}",
            source=item.id,
            audio=audio,
            start=start,
            end=end,
            gain=1.0,
            license=item.license,
            origin=item.origin,
            transforms=(f"spoken by {_public(voice)}", *changed),
            language=line.language,
            speaker=_public(voice),
            text=line.spoken,
            given=True,
            extra=extra,
        )


def _voice(entry: str) -> Voice:
    """The voice of an entry `[NAME=]VOICE`."""
    return Voice.parse(entry.rpartition("=")[2])


def _public(entry: str) -> str:
    """A voice's name without the folder its model lies in."""
    parsed = _voice(entry)
    kind, _, argument = parsed.backend.partition(":")
    name = parsed.voice or argument.rstrip("/").rpartition("/")[2].partition(".")[0]
    factor = f"*{parsed.faster:g}" if parsed.faster != 1.0 else ""
    return f"{kind}@{name}{factor}" if name else f"{kind}{factor}"

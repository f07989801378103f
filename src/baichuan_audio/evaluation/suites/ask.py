"""Asks a system about one item, and writes down what it answered as the result file keeps it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...data.store.atomic import text_digest
from ...errors import AudioError, ConfigError
from ..metrics import mel_mae
from ..systems.base import (
    CodecSystem,
    ItemFailure,
    LikelihoodSystem,
    Recogniser,
    Reconstruction,
    Reply,
    SpeakingSystem,
    System,
    wav_bytes,
)
from .covost2 import INSTRUCTIONS
from .items import Item
from .scores.quality import RATE, QualityMeasures

_NEEDED: dict[str, tuple[type, str]] = {
    "tts": (SpeakingSystem, "reads no text aloud"),
    "codec": (CodecSystem, "has no tokenizer to use by itself; name a checkpoint"),
    "t2t_loss": (LikelihoodSystem, "gives no likelihoods; name a checkpoint"),
    "s2t_loss": (LikelihoodSystem, "gives no likelihoods; name a checkpoint"),
}


class Clock:
    """Time of the models: `seconds` of each part, all threads together; `busy` while at least one of them works."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("system", "recogniser", "measures", "judge"), 0.0)
        self.busy, self._working, self._since, self._lock = 0.0, 0, 0.0, threading.Lock()

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Counts the time within it for `part`."""
        started = time.monotonic()
        with self._lock:
            self._since = self._since if self._working else started
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                now = time.monotonic()
                self.seconds[part] += now - started
                self._working -= 1
                self.busy += 0.0 if self._working else now - self._since

    def shares(self, wall: float) -> dict[str, float]:
        """Seconds and per cent of `wall` seconds in each part that worked, and in none of them: the harness.

        Parts that work at the same time add up to more than 100.
        """
        parts = {part: seconds for part, seconds in self.seconds.items() if seconds} | {"harness": wall - self.busy}
        figures = {"wall_s": round(wall, 1)}
        for part, seconds in parts.items():
            figures |= {f"{part}_s": round(seconds, 1), f"{part}_percent": round(100 * seconds / wall, 1)}
        return figures


class Asker:
    """Asks `system`; sounds go to `folder` and are named in rows by their path from `base`.

    recogniser: reads the sound of replies back, and may be asked by several threads. measures: of their quality.
    `clock`: of the models' work. Raises ConfigError where a system cannot be asked for one of `kinds`.
    """

    def __init__(
        self,
        system: System,
        recogniser: Recogniser | None,
        measures: QualityMeasures | None,
        folder: Path,
        kinds: Sequence[str],
    ) -> None:
        self._system, self._recogniser, self._measures = system, recogniser, measures
        self._folder, self._base = folder, folder.parent
        self._measures_lock, self.clock = threading.Lock(), Clock()
        for kind in kinds:
            needed, trouble = _NEEDED.get(kind, (object, ""))
            if not isinstance(system, needed):
                raise ConfigError(f"this system {trouble}.")
        self._kinds: dict[str, Callable[[Item], Any]] = {
            "asr": lambda item: {"text": system.transcribe(item)},
            "t2t": lambda item: _without_sound(*self._replied(item, False, typed=True)),
            "s2t": lambda item: _without_sound(*self._replied(item, False)),
            "s2tt": lambda item: {"text": system.answer(item, False, instruction=INSTRUCTIONS[item.subset]).text},
            "t2t_loss": lambda item: _losses(system, item, False),
            "s2t_loss": lambda item: _losses(system, item, True),
            "s2s": lambda item: self._replied(item, True),
            "tts": lambda item: cast(SpeakingSystem, system).speak(item),
            "codec": lambda item: cast(CodecSystem, system).reconstruct(item),
        }
        self._finish: dict[str, Callable[[Item, Any], dict[str, Any]]] = {
            "s2s": lambda item, replied: self._spoken(item, replied[0])[0] | replied[1],
            "tts": self._text,
            "codec": self._codec,
        }

    def ask(self, item: Item, kind: str) -> Callable[[], dict[str, Any]]:
        """Ask the system -> what is still to do, by any thread: its result is the entry of a row under `kind`, with the
        error where the system fails."""
        try:
            with self.clock.timed("system"):
                reply = self._kinds[kind](item)
        except ItemFailure as failure:
            error = {"error": str(failure)}
            return lambda: error
        return partial(self._finish[kind], item, reply) if kind in self._finish else lambda: reply

    def read_back(self, audio: Path | bytes, language: str) -> str | None:
        """What the recogniser writes; None for a recording that cannot be read."""
        waveform = _at_rate(audio)
        return None if waveform is None else self._transcript(waveform, language)

    def _replied(self, item: Item, spoken: bool, typed: bool = False) -> tuple[Reply, dict[str, str]]:
        """The reply, and in a second turn, which follows the system's own reply to the first, `before`: that one."""
        if item.follows is None:
            return self._system.answer(item, spoken, typed), {}
        first = self._system.answer(item.follows, spoken, typed).text
        return self._system.answer(item, spoken, typed, earlier=(item.follows, first)), {"before": first}

    def _text(self, item: Item, reply: Reply) -> dict[str, Any]:
        row, sound = self._spoken(item, reply)
        if sound is None:
            return row
        with self._measuring():
            row["measures"] = self._quality(sound)
            if self._measures is not None and item.prompt_audio is not None:
                prompt = _at_rate(item.prompt_audio)
                row["measures"] |= {} if prompt is None else self._measures.similarity(prompt, sound)
        return row

    def _codec(self, item: Item, result: Reconstruction) -> dict[str, Any]:
        sounds = {"original": result.original, "vocoder": result.vocoder, "decoded": result.decoded}
        versions, original = dict[str, Any](), None
        for name, waveform in sounds.items():
            path = self._folder / name / f"{item.id}.wav"
            content = self._keep(path, waveform, result.sample_rate)
            sound = _at_rate(content)
            assert sound is not None  # it was just written
            original = sound if original is None else original
            transcript = self._transcript(sound, item.language) if item.references else None
            with self._measuring():
                first, second = torch.from_numpy(result.original), torch.from_numpy(waveform)
                measures = {"mel_mae": round(mel_mae(first, second), 9), **self._quality(sound)}
                if self._measures is not None:
                    measures |= self._measures.against(original, sound) | self._measures.similarity(original, sound)
            versions[name] = {
                "asr": transcript,
                "audio": self._relative(path),
                "audio_digest": text_digest(content.hex()),
                "measures": measures,
            }
        return {
            "codes": result.codes.tolist(),
            "sizes": list(result.sizes),
            "frame_rate": result.frame_rate,
            "seconds": round(len(result.original) / result.sample_rate, 3),
            "versions": versions,
        }

    def _spoken(self, item: Item, reply: Reply) -> tuple[dict[str, Any], np.ndarray | None]:
        """Keep the sound as 16-bit WAV and read that back, so what was judged can be heard; also its samples."""
        if reply.waveform is None or not len(reply.waveform):
            return {"error": "the reply has no sound.", "text": reply.text}, None
        path = self._folder / f"{item.id}.wav"
        content = self._keep(path, reply.waveform, reply.sample_rate)
        sound = _at_rate(content)
        row = {
            "text": reply.text,
            "asr": None if sound is None else self._transcript(sound, item.language),
            "audio": self._relative(path),
            "audio_digest": text_digest(content.hex()),
            "seconds": round(len(reply.waveform) / reply.sample_rate, 3),
        }
        return row, sound

    def _keep(self, path: Path, waveform: np.ndarray, sample_rate: int) -> bytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = wav_bytes(waveform, sample_rate)
        path.write_bytes(content)
        return content

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()

    @contextlib.contextmanager
    def _measuring(self) -> Iterator[None]:
        """Measures are taken one at a time: not all libraries can be called by two threads."""
        with self._measures_lock, self.clock.timed("measures"):
            yield

    def _quality(self, sound: np.ndarray) -> dict[str, Any]:
        return {} if self._measures is None else dict(self._measures.opinions(sound))

    def _transcript(self, sound: np.ndarray, language: str) -> str | None:
        if self._recogniser is None:
            return None
        with self.clock.timed("recogniser"):
            return self._recogniser.transcribe(sound, language)


def _without_sound(reply: Reply, before: dict[str, str]) -> dict[str, str]:
    return {"text": reply.text, **before}


def _losses(system: Any, item: Item, spoken: bool) -> dict[str, Any]:
    return {"losses": [round(loss, 7) for loss in system.losses(item, spoken)]}


def _at_rate(audio: Path | bytes) -> np.ndarray | None:
    """Samples [S] of a file at RATE; None where it cannot be read."""
    from ...audio.reading import read_audio

    try:
        waveform, _ = read_audio(audio, RATE)
    except AudioError:
        return None
    return np.asarray(waveform, np.float32)

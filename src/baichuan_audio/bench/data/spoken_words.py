"""Clips whose words have known times, because the engine that speaks them tells: festival (English), espeak-ng
(Mandarin, a syllable a word)."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ...data.pipeline.backends.tts import pinyin
from ...data.pipeline.spoken_units import units
from ...errors import MissingDependencyError

_LISTING = """(let ((u (utt.synth (Utterance Text "{text}"))))
  (utt.save.wave u "{path}" 'riff)
  (mapcar (lambda (w) (format t "%s\\t%s\\t%s\\n" (item.name w) (item.feat w "word_start") (item.feat w "word_end")))
          (utt.relation.items u 'Word))
  (format t "END\\n"))
"""


def speak_english(texts: Sequence[str], folder: Path, voice: str) -> list[dict[str, Any]]:
    """Each text by festival into `folder`; manifest rows with `words`. A text whose words festival reads otherwise is
    left out. Raises MissingDependencyError without festival."""
    if shutil.which("festival") is None:
        raise MissingDependencyError("English clips with word times need festival: apt install festival.")
    folder.mkdir(parents=True, exist_ok=True)
    script = [f"(voice_{voice})\n"]
    for number, text in enumerate(texts):
        script.append(_LISTING.format(text=text.replace('"', " "), path=folder / f"{voice}-{number:03d}.wav"))
    listing = folder / f"{voice}.scm"
    listing.write_text("".join(script), encoding="latin-1", errors="replace")
    done = subprocess.run(["festival", "-b", str(listing)], capture_output=True, text=True, timeout=1200, check=True)
    rows = []
    for number, (text, block) in enumerate(zip(texts, done.stdout.split("END\n"), strict=False)):
        words = [line.split("\t") for line in block.splitlines() if line.count("\t") == 2]
        found = [(name.lower(), float(start), float(end)) for name, start, end in words if units(name)]
        if [name for name, _, _ in found] == [unit.spoken for unit in units(text)]:
            rows.append(_row(f"{voice}-{number:03d}", "en", voice, text, found))
    return rows


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_WORD, _LIST_END, _SYNCHRONOUS = 1, 0, 2


def speak_mandarin(texts: Sequence[str], folder: Path, variant: str) -> list[dict[str, Any]]:
    """Each text by espeak-ng into `folder`; manifest rows with the time of each character.

    A syllable ends where the next begins or, at a mark, where its sound ends. Raises MissingDependencyError without the
    library.
    """
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise MissingDependencyError("Mandarin clips with word times need espeak-ng: apt install espeak-ng.") from error
    folder.mkdir(parents=True, exist_ok=True)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
    library.espeak_SetVoiceByName(f"cmn-latn-pinyin+{variant}".encode())
    rows = []
    for number, text in enumerate(texts):
        samples: list[np.ndarray] = []
        starts: list[float] = []

        def take(wave: Any, count: int, events: Any, samples: Any = samples, starts: Any = starts) -> int:
            if wave and count > 0:
                samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
            index = 0
            while events[index].type != _LIST_END:
                if events[index].type == _WORD:
                    starts.append(events[index].audio_position / 1000)
                index += 1
            return 0

        callback = _CALLBACK(take)
        library.espeak_SetSynthCallback(callback)
        spoken = pinyin(text).encode()
        library.espeak_Synth(spoken, len(spoken) + 1, 0, 0, 0, 1, None, None)
        library.espeak_Synchronize()
        named = units(text)
        if len(starts) != len(named) or not samples:
            continue
        wave = np.concatenate(samples)
        soundfile.write(folder / f"{variant}-{number:03d}.wav", wave, rate)
        ends = [_sounding_end(wave, rate, a, b) for a, b in zip(starts, [*starts[1:], len(wave) / rate], strict=True)]
        found = [(unit.spoken, start, end) for unit, start, end in zip(named, starts, ends, strict=True)]
        rows.append(_row(f"{variant}-{number:03d}", "zh", f"espeak-{variant}", text, found))
    return rows


def _sounding_end(wave: np.ndarray, rate: int, start: float, end: float) -> float:
    hop = rate // 100
    part = wave[int(start * rate) : int(end * rate)].astype(np.float64)
    power = (part[: len(part) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > 100.0)
    return start + (int(loud[-1]) + 1) / 100 if len(loud) else end


def _row(
    name: str, language: str, speaker: str, text: str, words: Sequence[tuple[str, float, float]]
) -> dict[str, Any]:
    return {
        "path": f"{name}.wav",
        "language": language,
        "speaker": speaker,
        "transcript": text,
        "license": "CC0-1.0",
        "source": "synthetic",
        "words": [{"text": text, "start": start, "end": end} for text, start, end in words],
    }


def write_clips(english: Sequence[str], mandarin: Sequence[str], folder: Path) -> Path:
    """Clips of these texts in a few voices and their manifest; returns the manifest."""
    rows: list[dict[str, Any]] = []
    for voice in ("cmu_us_slt_arctic_hts", "kal_diphone"):
        rows += speak_english(english, folder, voice)
    for variant in ("f2", "m3"):
        rows += speak_mandarin(mandarin, folder, variant)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return manifest

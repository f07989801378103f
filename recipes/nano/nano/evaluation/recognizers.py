"""The independent recognizers of the evaluation: which of them transcribes what, and the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .alignment import Aligner, choices_right
from .asr import in_processes, transcribe_all
from .items import HeldOut
from .tasks import Progress
from .texts import same
from .whisper import Whisper

CHOICES = 10
"""Texts out of which a recognizer that does not write a language chooses."""


class Recognizers:
    """pocketsphinx, and Whisper where a model of it is named (`whisper.py`).

    Raises ConfigError or MissingDependencyError where that cannot be had: now, and not after an hour.
    """

    def __init__(self, held_out: HeldOut, processes: int, progress: Progress, whisper_model: str | None) -> None:
        if whisper_model is not None:
            Whisper(whisper_model, "zh")
        self._held_out, self._processes, self._progress = held_out, processes, progress
        self._whisper = whisper_model

    @property
    def for_choosing(self) -> str:
        """How Mandarin is judged."""
        scored = "alignment score" if self._whisper is None else "Whisper's likelihood"
        return f"best of {CHOICES} texts by {scored}"

    def read_back(
        self, language: str, sounds: Sequence[np.ndarray], references: Sequence[str]
    ) -> tuple[list[str], list[bool]]:
        """Transcripts of sounds [S] at 16 kHz (English only), and whether each is its reference."""
        known = self._held_out.answers[language]
        if language == "en":
            jobs = transcribe_all(sounds, known, self._processes)
            transcripts = list(self._progress(jobs, "listening, en", len(sounds)))
            return transcripts, [
                same(text, reference, "en") for text, reference in zip(transcripts, references, strict=True)
            ]
        chooser = (Aligner,) if self._whisper is None else (Whisper, (self._whisper, language))
        choices = choices_right(sounds, references, known, CHOICES, self._processes, *chooser)
        right = list(self._progress(choices, f"choosing, {language}", len(sounds)))
        return [""] * len(right), right

    def write_english(
        self, sounds: Sequence[np.ndarray], texts: Sequence[str] | None, label: str
    ) -> Iterator[tuple[str, str, list[str]]]:
        """Each recognizer's name, what it can write and its transcripts; `texts` close pocketsphinx's vocabulary."""
        jobs = {"pocketsphinx": transcribe_all(sounds, texts, self._processes)}
        if self._whisper is not None:
            calls = [(sound,) for sound in sounds]
            jobs["Whisper"] = in_processes(Whisper, (self._whisper, "en"), "transcribe", calls, self._processes)
        for name, job in jobs.items():
            writes = "vocabulary of the corpus" if texts and name == "pocketsphinx" else "general English"
            yield name, writes, list(self._progress(job, f"listening, {label}, {name}", len(sounds)))

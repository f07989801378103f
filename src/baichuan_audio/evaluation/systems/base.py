"""What an evaluation asks of a system under test, and what every kind of system shares.

Each item has a seed of its own, so neither order nor company changes a reply.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...data.store.atomic import text_digest
from ...errors import AudioError
from ..suites.items import Item


@dataclass(frozen=True)
class Reply:
    """Text of a reply and, of a spoken one, its sound: waveform [S] float32 at `sample_rate` Hz."""

    text: str
    waveform: np.ndarray | None = None
    sample_rate: int = 0


class ItemFailure(Exception):
    """The system refused or failed on this item; its text goes to the results, where the item counts as wrong."""


Earlier = tuple[Item, str]
"""The turn before this one: what the user said or typed, and the text of the reply."""


class System(Protocol):
    """What an evaluation asks. Every method raises ItemFailure where this item cannot be answered."""

    def provenance(self) -> dict[str, Any]:
        """What decides the replies: names and hashes, the same from run to run."""
        ...

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        """The reply to the item's audio (typed: to its text), with sound where `spoken`.

        instruction: a text before the audio, such as what to translate it to. earlier: the turn before, given as the
        item is, its reply as text.
        """
        ...

    def transcribe(self, item: Item) -> str:
        """What is said in the item's audio."""
        ...


class Recogniser(Protocol):
    """An independent ASR that reads spoken replies back."""

    def provenance(self) -> dict[str, Any]: ...

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        """Samples [S] at 16 kHz -> what is said, in "en" or "zh"."""
        ...


@runtime_checkable
class SpeakingSystem(Protocol):
    """A system that reads texts aloud."""

    def speak(self, item: Item) -> Reply:
        """The item's text, read aloud. Raises ItemFailure where that fails."""
        ...


@dataclass(frozen=True)
class Reconstruction:
    """A recording encoded and decoded again.

    codes [K, T] of codebooks of `sizes` entries at `frame_rate` Hz. Waveforms [S] float32 at `sample_rate` Hz: the
    original, what the vocoder makes of its true mel, and what was decoded from the codes.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    frame_rate: float
    sample_rate: int
    original: np.ndarray
    vocoder: np.ndarray
    decoded: np.ndarray


@runtime_checkable
class CodecSystem(Protocol):
    """A system whose audio tokenizer can be used by itself: a model in this process."""

    def reconstruct(self, item: Item) -> Reconstruction:
        """The item's audio through the tokenizer and back. Raises ItemFailure where that fails."""
        ...


@runtime_checkable
class LikelihoodSystem(Protocol):
    """A system that says how likely a text is: a model in this process."""

    def losses(self, item: Item, spoken: bool) -> list[float]:
        """Mean loss in nats a token of each of `item.choices` after the item's audio (else: after its text)."""
        ...


def item_seed(seed: int, item: Item) -> int:
    """A seed that depends on the run's seed and the item alone, so order and company change nothing."""
    return int(text_digest(str(seed), item.id)[:7], 16)


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Samples [S] float32 -> a 16-bit WAV file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def encode_pcm(samples: np.ndarray) -> str:
    """Samples [S] in [-1, 1] -> 16-bit PCM in base64, as Realtime events carry it."""
    return base64.b64encode((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()).decode()


def audio_of(item: Item) -> Path:
    if item.audio is None:
        raise ItemFailure("this item has no audio.")
    return item.audio


def item_waveform(item: Item) -> tuple[np.ndarray, int]:
    """The item's recording, or the part of it that the item names: waveform [S] float32 and its rate in Hz.

    Raises ItemFailure where it cannot be read.
    """
    path = audio_of(item)
    if item.span is None:
        return read_sound(path)
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            start, end = (round(second * file.samplerate) for second in item.span)
            file.seek(min(start, file.frames))
            samples = file.read(max(end - start, 0), dtype="float32", always_2d=True).mean(axis=1)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise ItemFailure(f"this sound cannot be read ({error}).") from error
    return np.asarray(samples, np.float32), rate


def read_sound(source: Path | bytes) -> tuple[np.ndarray, int]:
    """Waveform [S] float32 of a file or its bytes, and its rate in Hz. Raises ItemFailure where it cannot be read."""
    from ...audio.reading import read_audio

    try:
        waveform, rate = read_audio(source)
    except AudioError as error:
        raise ItemFailure(f"this sound cannot be read ({error}).") from error
    return np.asarray(waveform, np.float32), int(rate)

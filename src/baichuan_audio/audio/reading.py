"""The one reader of audio files: a path, bytes or an open file, by content, in blocks and within limits.

Command line, Python API, data tools and server all read through `read_audio`. It needs no torch, so that a process
that only decodes starts fast and stays small.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile
import soxr

from ..errors import AudioError
from . import pyav
from .formats import HEAD_BYTES, FileFormat, detect_format, is_chained_ogg, unfinished_wav
from .mixing import MonoMix, full_scale

AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
Watch: TypeAlias = Callable[[int], None]
_BLOCK_SAMPLES = 1 << 17  # of all channels together
_ROUNDING_S = 1e-6
_SOUNDFILE_ERRORS = (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, ValueError)
_INSTALL = "reading it needs PyAV: pip install 'baichuan-audio[formats]'"
_CONVERT = "convert it to WAV, FLAC, MP3 or Ogg, e.g. with ffmpeg"


@dataclass(frozen=True)
class AudioLimits:
    """What a file may cost, whatever a few of its bytes unfold to.

    max_bytes: of the file. max_seconds: of its sound. max_samples: seconds x rate x channels, which is what decoding
    costs. min_rate_hz, max_rate_hz, max_channels: of its header, and of every frame.
    """

    max_bytes: int = 2 * 1024**3
    max_seconds: float = 4 * 3600.0
    max_samples: float = float("inf")
    min_rate_hz: int = 1000
    max_rate_hz: int = 384_000
    max_channels: int = 32


class AudioLimitError(AudioError):
    """A file goes beyond a limit. code: "audio_too_long" or "audio_too_large"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SequentialSound(soundfile.SoundFile):
    """Read from the beginning to the end, as far as there are samples.

    For any file that can seek soundfile believes the header's count of frames, which in a stream is a guess, and in a
    file that was cut short wrong: what is missing would be whatever lay in memory.
    """

    def seekable(self) -> bool:
        return False


def read_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    limits: AudioLimits | None = None,
    *,
    name: str | None = None,
    watch: Watch | None = None,
) -> tuple[Any, int]:
    """An audio file -> (mono waveform [S] float32, its sample rate in Hz).

    WAV, FLAC, MP3, Ogg, AIFF and what else libsndfile knows; with PyAV also MP4, M4A, QuickTime, 3GP, WebM, AAC, AMR,
    ALAC, WMA and others. The content decides, not the name. Channels are mixed by their mean, or the loudest is taken
    where the mean would cancel out; floating-point samples at the scale of whole numbers are divided by it.

    sample_rate: what to resample to, None for the file's own. limits: `AudioLimits()` by default. name: for messages
    about bytes and open files. watch: called with the samples (of all channels) that the header promises, where that
    is known, then with those decoded so far after each block; what it raises ends the reading.
    Raises AudioError: no such file, no audio, a format that cannot be read (named), damaged, empty, not finite;
    AudioLimitError beyond a limit.
    """
    limits = limits or AudioLimits()
    with _opened(source, name, limits) as (file, size, name):
        format = _checked_format(file, size, name)
        view = _View(file, unfinished_wav(file, size))
        reading = _Reading(view, format, name, sample_rate, limits, watch)
        waveform, rate = reading.once()
    peak = float(np.abs(waveform).max())
    scale = full_scale(peak, name)
    return (waveform if scale == 1.0 else waveform / np.float32(scale)), rate


def is_file(path: Path) -> bool:
    """`Path.is_file`, False as well for what can be no file name (too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def _opened(source: AudioSource, name: str | None, limits: AudioLimits) -> Iterator[tuple[BinaryIO, int, str]]:
    """The source as a file that can seek, its size in bytes, and its name for messages."""
    if isinstance(source, (str, os.PathLike)):
        path, name = Path(source), name or str(source)
        if not is_file(path):
            raise AudioError(f"{name}: there is no such audio file, or it is no regular one.")
        try:
            file: BinaryIO = path.open("rb")
        except OSError as error:
            raise AudioError(f"{name}: the file cannot be opened ({error.strerror}).") from error
        with file:
            yield file, _checked_size(path.stat().st_size, limits, name), name
        return
    name = name or "audio"
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif source.seekable():
        start, size = source.tell(), source.seek(0, os.SEEK_END)
        source.seek(start)
        if start == 0:
            yield source, _checked_size(size, limits, name), name
            return
        data = source.read(limits.max_bytes + 1)
    else:
        data = source.read(limits.max_bytes + 1)
    yield io.BytesIO(data), _checked_size(len(data), limits, name), name


def _checked_size(size: int, limits: AudioLimits, name: str) -> int:
    if size > limits.max_bytes:
        most = f"{limits.max_bytes / 1024**3:g} GiB"
        raise AudioLimitError(f"{name}: the file is larger than {most}; cut it into shorter files.", "audio_too_long")
    return size


def _checked_format(file: BinaryIO, size: int, name: str) -> FileFormat:
    """What the file is by its first bytes. Raises AudioError for what is certainly no audio."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not isinstance(head, bytes):
        raise AudioError(f"{name}: the file is open for text; open it with mode 'rb'.")
    if not head:
        raise AudioError(f"{name}: this is not audio: the file is empty.")
    format = detect_format(head)
    if not format.is_audio:
        raise AudioError(f"{name}: this is {format.name}, not audio in a format that can be read.")
    if not format.native and format.demuxer is None:
        raise AudioError(f"{name}: this is {format.name}, which is not read here; {_CONVERT}.")
    if not format.native and not pyav.available():
        raise AudioError(f"{name}: this is {format.name}; {_INSTALL}, or {_CONVERT}.")
    return format


class _View(io.RawIOBase):
    """A file as decoders see it: without its name, from which they would guess, and with its header mended."""

    def __init__(self, file: BinaryIO, patches: Mapping[int, bytes]) -> None:
        self._file, self._patches = file, patches

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        data = self._file.read(len(buffer))
        if self._patches and start <= max(self._patches) + 4:
            mended = bytearray(data)
            for offset, patch in self._patches.items():
                for number, byte in enumerate(patch, offset - start):
                    if 0 <= number < len(data):
                        mended[number] = byte
            data = bytes(mended)
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _Reading:
    """One file on its way to a mono waveform."""

    def __init__(
        self,
        file: _View,
        format: FileFormat,
        name: str,
        sample_rate: int | None,
        limits: AudioLimits,
        watch: Watch | None,
    ) -> None:
        self._file, self._format, self._name = file, format, name
        self._sample_rate, self._limits, self._watch = sample_rate, limits, watch
        self._samples = 0

    def once(self) -> tuple[Any, int]:
        """Waveform and rate; read a second time, for one channel, where the mean of all cancels out."""
        mix = MonoMix()
        waveform, rate = self._joined(mix)
        if take := mix.cancelled():
            return self._joined(MonoMix(take))
        return waveform * np.float32(mix.gain) if mix.gain != 1.0 else waveform, rate

    def _joined(self, mix: MonoMix) -> tuple[Any, int]:
        resampler = _Resampler(self._sample_rate)
        self._samples, seconds = 0, 0.0
        for block, rate in self._blocks():
            if not len(block):
                self._look()
                continue
            self._check_header(rate, block.shape[1])
            seconds += len(block) / rate
            self._samples += block.size
            if seconds > self._limits.max_seconds + _ROUNDING_S:
                raise AudioLimitError(
                    f"{self._name}: the audio is longer than {_duration(self._limits.max_seconds)}; "
                    "cut it into shorter files.",
                    "audio_too_long",
                )
            self._look()
            resampler.push(mix.push(block), rate)
        waveform = resampler.finish()
        if not len(waveform):
            raise AudioError(f"{self._name}: there are no samples in it ({self._format.name}).")
        return waveform, resampler.rate

    def _blocks(self) -> Iterator[tuple[Any, int]]:
        """Blocks (samples [N, C], rate), from libsndfile where it can read the file, else from PyAV."""
        format, use_pyav = self._format, self._format.demuxer is not None and pyav.available()
        if format.native and not (use_pyav and is_chained_ogg(self._file)):
            reason = yield from self._native_blocks()
            if not reason:
                return
            if format.demuxer is None:
                raise AudioError(f"{self._name}: not audio in a format that can be read ({reason}).")
            if not use_pyav:
                what = f"{format.name} that is damaged, or coded in a way that libsndfile does not read ({reason})"
                raise AudioError(f"{self._name}: {what}; {_INSTALL}, or {_CONVERT}.")
        self._file.seek(0)
        yield from pyav.pyav_blocks(self._file, format, self._name)

    def _native_blocks(self) -> Generator[tuple[Any, int], None, str]:
        """What libsndfile reads; returns why it can read nothing, "" where it could."""
        self._file.seek(0)
        try:
            sound = SequentialSound(self._file)
        except _SOUNDFILE_ERRORS as error:
            return _reason(error)
        with sound:
            rate, channels = sound.samplerate, sound.channels
            self._check_header(rate, channels)
            if 0 < sound.frames < 1 << 48:
                self._check_cost(sound.frames, rate, channels)
            frames, read_any = max(1, _BLOCK_SAMPLES // channels), False
            while True:
                block = np.zeros((frames, channels), np.float32)
                try:
                    block = sound.read(out=block)
                except _SOUNDFILE_ERRORS as error:  # cut short: what is there counts, of this block as well
                    block = block[: int(block.any(axis=1).nonzero()[0].max(initial=-1)) + 1]
                    if len(block):
                        yield block, rate
                    return "" if read_any or len(block) else _reason(error)
                if not len(block):
                    return ""
                read_any = True
                yield block, rate

    def _check_header(self, rate: int, channels: int) -> None:
        if not self._limits.min_rate_hz <= rate <= self._limits.max_rate_hz:
            raise AudioError(
                f"{self._name}: a sample rate of {rate} Hz is not read; resample it to between "
                f"{self._limits.min_rate_hz} and {self._limits.max_rate_hz} Hz."
            )
        if not 1 <= channels <= self._limits.max_channels:
            raise AudioError(f"{self._name}: {channels} channels are too many; mix it to one.")

    def _check_cost(self, frames: int, rate: int, channels: int) -> None:
        """Refuse by the header what is too much: many samples a second, of a file that may be short."""
        samples = frames * channels
        is_costly = rate * channels * self._limits.max_seconds > self._limits.max_samples
        if is_costly and samples > self._limits.max_samples:
            raise self._too_large()
        if self._watch is not None:
            self._watch(samples)

    def _look(self) -> None:
        if self._samples > self._limits.max_samples:
            raise self._too_large()
        if self._watch is not None:
            self._watch(self._samples)

    def _too_large(self) -> AudioLimitError:
        return AudioLimitError(
            f"{self._name}: the audio has more than {self._limits.max_samples / 1e6:g} million samples (seconds x "
            "sample rate x channels); give one channel at 16 to 48 kHz, or a shorter file.",
            "audio_too_large",
        )


class _Resampler:
    """Mono pieces [N] of any rates -> one waveform [S] of one rate: the asked one, else that of the first piece."""

    def __init__(self, rate: int | None) -> None:
        self._asked, self.rate = rate, rate or 0
        self._from = 0
        self._stream: soxr.ResampleStream | None = None
        self._pieces: list[Any] = []

    def push(self, mono: Any, rate: int) -> None:
        self.rate = self.rate or rate
        if rate != self._from:  # a stream may change its rate on the way
            self._flush()
            self._from = rate
            self._stream = None if rate == self.rate else soxr.ResampleStream(rate, self.rate, 1)
        self._pieces.append(mono if self._stream is None else self._stream.resample_chunk(mono))

    def finish(self) -> Any:
        self._flush()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)

    def _flush(self) -> None:
        if self._stream is not None:
            self._pieces.append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or error).rstrip(".")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds:g} s"

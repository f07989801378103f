"""Reads audio files: a path, bytes or an open file, detected by content, in blocks and within limits.

Command line, Python API, data tools and server all use `read_audio`, the data pipeline `convert_audio`, which keeps no
more than a block in memory. torch is not imported, so that a process that only decodes starts fast and stays small.
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
    """Limits of the size and decoding cost of a file.

    max_bytes: of the file. max_seconds: of its audio. max_samples: seconds x rate x channels, a measure of the decoding
    cost. min_rate_hz, max_rate_hz, max_channels: of its header, and of every frame.
    """

    max_bytes: int = 2 * 1024**3
    max_seconds: float = 4 * 3600.0
    max_samples: float = float("inf")
    min_rate_hz: int = 1000
    max_rate_hz: int = 384_000
    max_channels: int = 32


class AudioLimitError(AudioError):
    """A file exceeds a limit. code: "audio_too_long" or "audio_too_large"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SequentialSoundFile(soundfile.SoundFile):
    """A sound file that is read sequentially, as far as there are samples.

    For a seekable file soundfile trusts the number of frames in the header, which is a guess in a stream and wrong in a
    truncated file: the missing samples would be uninitialized memory.
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

    WAV, FLAC, MP3, Ogg, AIFF and other formats of libsndfile; with PyAV also MP4, M4A, QuickTime, 3GP, WebM, AAC, AMR,
    ALAC, WMA and others. The format is detected by content, not by name. Channels are averaged, or the loudest is taken
    where the mean would cancel out; floating-point samples at the scale of integers are divided by it.

    sample_rate: to resample to, None for the rate of the file. limits: `AudioLimits()` by default. name: for error
    messages about bytes and open files. watch: called with the number of samples (of all channels) in the header, if
    known, then after each block with the number decoded so far; its exceptions end the reading.
    Raises AudioError for a file that is missing, not audio, of an unsupported format (named), damaged, empty or not
    finite; AudioLimitError beyond a limit.
    """
    limits = limits or AudioLimits()
    with _opened(source, name, limits) as (file, size, name):
        format = _checked_format(file, size, name)
        view = _View(file, unfinished_wav(file, size))
        reading = _Reading(view, format, name, sample_rate, limits, watch)
        waveform = reading.read()
    scale = full_scale(reading.peak, name)
    return (waveform if scale == 1.0 else waveform / np.float32(scale)), reading.rate


@dataclass(frozen=True)
class AudioFacts:
    """What was read. frames: samples of each channel. take: the channel that stands for all where their mean cancels
    out. scale: factor of the samples, other than 1 where channels are silent or samples unscaled integers."""

    sample_rate: int
    channels: int
    frames: int
    take: int | None
    scale: float


def convert_audio(
    source: AudioSource,
    sample_rate: int,
    start: Callable[[], Callable[[Any], None]],
    limits: AudioLimits | None = None,
    *,
    name: str | None = None,
) -> AudioFacts:
    """`read_audio` block by block, for files that are larger than memory.

    start: begins the output and returns what takes its blocks (mono [N] float32 at `sample_rate`, in order); called
    anew, to begin from the start, where one reading shows that the channels or the scale are to be taken otherwise.
    A file without samples is an output without blocks. Raises as `read_audio`.
    """
    limits = limits or AudioLimits()
    with _opened(source, name, limits) as (file, size, name):
        format = _checked_format(file, size, name)
        reading = _Reading(_View(file, unfinished_wav(file, size)), format, name, sample_rate, limits, None)
        take: dict[int, int] = {}
        scale = 1.0
        while True:
            mix, write = MonoMix(take), start()
            for piece in reading.pieces(mix):
                write(piece if scale == 1.0 else piece * np.float32(scale))
            if cancelled := mix.cancelled():
                take = cancelled
                continue
            following = mix.gain / full_scale(reading.peak, name)
            if following == scale:
                return AudioFacts(
                    reading.source_rate, reading.channels, reading.frames, take.get(reading.channels), scale
                )
            scale = following


def is_file(path: Path) -> bool:
    """`Path.is_file`, but False for an invalid file name (too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def _opened(source: AudioSource, name: str | None, limits: AudioLimits) -> Iterator[tuple[BinaryIO, int, str]]:
    """The source as a seekable file, its size in bytes, and its name for messages."""
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
        maximum = f"{limits.max_bytes / 1024**3:g} GiB"
        raise AudioLimitError(
            f"{name}: the file is larger than {maximum}; split it into shorter files.", "audio_too_long"
        )
    return size


def _checked_format(file: BinaryIO, size: int, name: str) -> FileFormat:
    """The format by the first bytes. Raises AudioError for a file that is not audio or not supported."""
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
        raise AudioError(f"{name}: this is {format.name}, which is not supported; {_CONVERT}.")
    if not format.native and not pyav.available():
        raise AudioError(f"{name}: this is {format.name}; {_INSTALL}, or {_CONVERT}.")
    return format


class _View(io.RawIOBase):
    """The file given to decoders: without its name, and with its header repaired."""

    def __init__(self, file: BinaryIO, patches: Mapping[int, bytes]) -> None:
        self._file, self._patches = file, patches

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        data = self._file.read(len(buffer))
        if self._patches and start <= max(self._patches) + 4:
            repaired = bytearray(data)
            for offset, patch in self._patches.items():
                for number, byte in enumerate(patch, offset - start):
                    if 0 <= number < len(data):
                        repaired[number] = byte
            data = bytes(repaired)
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
    """Reads one file into a mono waveform."""

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
        self.rate = self.source_rate = self.channels = self.frames = 0
        self.peak = 0.0

    def read(self) -> Any:
        """The waveform; the file is read again for one channel where the mean of all cancels out."""
        mix = MonoMix()
        waveform = self._joined(mix)
        if take := mix.cancelled():
            return self._joined(MonoMix(take))
        if mix.gain == 1.0:
            return waveform
        self.peak *= mix.gain
        return waveform * np.float32(mix.gain)

    def _joined(self, mix: MonoMix) -> Any:
        pieces = list(self.pieces(mix))
        if not any(map(len, pieces)):
            raise AudioError(f"{self._name}: it has no samples ({self._format.name}).")
        return np.concatenate(pieces)

    def pieces(self, mix: MonoMix) -> Iterator[Any]:
        """The file from its beginning as mono pieces at `rate`; meanwhile `peak` and the number of frames are noted."""
        resampler = _Resampler(self._sample_rate)
        self._samples, seconds = 0, 0.0
        self.source_rate = self.channels = self.frames = 0
        self.peak = 0.0
        for block, rate in self._blocks():
            if not len(block):
                self._check_samples()
                continue
            self._check_header(rate, block.shape[1])
            self.source_rate, self.channels = self.source_rate or rate, self.channels or block.shape[1]
            self.frames += len(block)
            seconds += len(block) / rate
            self._samples += block.size
            if seconds > self._limits.max_seconds + _ROUNDING_S:
                raise AudioLimitError(
                    f"{self._name}: the audio is longer than {_duration(self._limits.max_seconds)}; "
                    "split it into shorter files.",
                    "audio_too_long",
                )
            self._check_samples()
            for piece in resampler.push(mix.push(block), rate):
                yield self._noted(piece)
        for piece in resampler.flush():
            yield self._noted(piece)
        self.rate = resampler.rate

    def _noted(self, piece: Any) -> Any:
        self.peak = float(np.maximum(self.peak, np.abs(piece).max(initial=0.0)))  # NaN stays
        return piece

    def _blocks(self) -> Iterator[tuple[Any, int]]:
        """Blocks (samples [N, C], rate) of libsndfile if it can read the file, else of PyAV."""
        format, use_pyav = self._format, self._format.demuxer is not None and pyav.available()
        if format.native and not (use_pyav and is_chained_ogg(self._file)):
            reason = yield from self._native_blocks()
            if not reason:
                return
            if format.demuxer is None:
                raise AudioError(f"{self._name}: not audio in a format that can be read ({reason}).")
            if not use_pyav:
                what = f"{format.name} that is damaged, or has an encoding that libsndfile does not read ({reason})"
                raise AudioError(f"{self._name}: {what}; {_INSTALL}, or {_CONVERT}.")
        self._file.seek(0)
        yield from pyav.pyav_blocks(self._file, format, self._name)

    def _native_blocks(self) -> Generator[tuple[Any, int], None, str]:
        """Blocks read by libsndfile; returns its error if it can read nothing, else ""."""
        self._file.seek(0)
        try:
            sound = SequentialSoundFile(self._file)
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
                except _SOUNDFILE_ERRORS as error:  # truncated: keep the samples read, of this block too
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
                f"{self._name}: a sample rate of {rate} Hz is not supported; resample it to between "
                f"{self._limits.min_rate_hz} and {self._limits.max_rate_hz} Hz."
            )
        if not 1 <= channels <= self._limits.max_channels:
            raise AudioError(f"{self._name}: {channels} channels are too many; mix it to one.")

    def _check_cost(self, frames: int, rate: int, channels: int) -> None:
        """Reject by the header a file with too many samples."""
        samples = frames * channels
        is_costly = rate * channels * self._limits.max_seconds > self._limits.max_samples
        if is_costly and samples > self._limits.max_samples:
            raise self._too_large()
        if self._watch is not None:
            self._watch(samples)

    def _check_samples(self) -> None:
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
    """Mono blocks [N] of any rates -> pieces of one rate: `rate`, else that of the first block."""

    def __init__(self, rate: int | None) -> None:
        self.rate = rate or 0
        self._from = 0
        self._stream: soxr.ResampleStream | None = None

    def push(self, mono: Any, rate: int) -> Iterator[Any]:
        self.rate = self.rate or rate
        if rate != self._from:  # a stream may change its rate
            yield from self.flush()
            self._from = rate
            self._stream = None if rate == self.rate else soxr.ResampleStream(rate, self.rate, 1)
        yield mono if self._stream is None else self._stream.resample_chunk(mono)

    def flush(self) -> Iterator[Any]:
        if self._stream is not None:
            yield self._stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or error).rstrip(".")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds:g} s"

"""Audio of a response, encoded while it is generated."""

from __future__ import annotations

import asyncio
import io
import shutil
from typing import Any, Literal

import soundfile
from torch import Tensor

from ..errors import ApiError, bad_request

AudioFormat = Literal["wav", "mp3", "flac", "opus", "aac", "pcm"]
MEDIA_TYPES: dict[str, str] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
_CONTAINERS = {"mp3": ("MP3", "MPEG_LAYER_III"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
_MP3_LEVEL = 0.6  # 67 kbit/s at 24 kHz


class AudioEncoder:
    """Pieces of a mono waveform -> pieces of one audio file.

    A WAV header that is sent before the length is known states the greatest length, as is usual for streams.
    Raises ApiError 400 for AAC where ffmpeg, which encodes it, is missing.
    """

    def __init__(self, format: str, sample_rate: int) -> None:
        self._format, self._sample_rate = format, sample_rate
        self._sink = _Sink()
        self._ffmpeg = None
        self._file: soundfile.SoundFile | None = None
        if format == "aac":
            self._ffmpeg = shutil.which("ffmpeg")
            if self._ffmpeg is None:
                raise bad_request(
                    "'aac' needs ffmpeg, which this server does not have; use wav, mp3, flac, opus or pcm.",
                    "response_format",
                    "unsupported_format",
                )
        elif format in ("wav", "pcm"):
            self._sink.write(_endless_wav_header(sample_rate) if format == "wav" else b"")
        else:
            container, subtype = _CONTAINERS[format]
            # a stream of constant bit rate needs no table of contents, which could only be written at the end
            constant = {"bitrate_mode": "CONSTANT", "compression_level": _MP3_LEVEL} if format == "mp3" else {}
            self._file = soundfile.SoundFile(self._sink, "w", sample_rate, 1, subtype, format=container, **constant)

    def push(self, waveform: Tensor) -> bytes:
        """waveform [S] -> the bytes that are complete; may be none."""
        samples = pcm16(waveform)
        if self._file is None:
            self._sink.write(samples.tobytes())
        else:
            self._file.write(samples)
        return b"" if self._ffmpeg else self._sink.take()

    async def finish(self) -> bytes:
        """The rest of the file."""
        if self._file is not None:
            self._file.close()
        rest = self._sink.take()
        return await _to_aac(self._ffmpeg, rest, self._sample_rate) if self._ffmpeg else rest


async def encode(waveform: Tensor, format: str, sample_rate: int) -> bytes:
    """A whole waveform [S] as one file, with its true length in the header."""
    if format in ("pcm", "aac"):
        encoder = AudioEncoder(format, sample_rate)
        return encoder.push(waveform) + await encoder.finish()
    return await asyncio.to_thread(_encode_file, pcm16(waveform), format, sample_rate)


def _encode_file(samples: Any, format: str, sample_rate: int) -> bytes:
    container, subtype = _CONTAINERS.get(format, ("WAV", "PCM_16"))
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, subtype, format=container)
    return file.getvalue()


def pcm16(waveform: Tensor) -> Any:
    """waveform [S] in [-1, 1] -> 16-bit little-endian samples."""
    return (waveform.detach().cpu().float().clamp(-1, 1) * 32767).round().numpy().astype("<i2")


async def _to_aac(ffmpeg: str, samples: bytes, sample_rate: int) -> bytes:
    """16-bit samples -> AAC in ADTS frames."""
    source = ["-f", "s16le", "-ar", str(sample_rate), "-ac", "1", "-i", "pipe:0"]
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", *source, "-c:a", "aac", "-f", "adts", "pipe:1"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        encoded, _ = await process.communicate(samples)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise ApiError(500, "ffmpeg could not encode the audio as AAC.", code="encoding_failed")
    return encoded


def _endless_wav_header(sample_rate: int) -> bytes:
    """RIFF header of mono 16-bit audio of unknown length."""
    unknown = b"\xff\xff\xff\xff"
    numbers = (16, 4), (1, 2), (1, 2), (sample_rate, 4), (sample_rate * 2, 4), (2, 2), (16, 2)
    fields = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    return b"RIFF" + unknown + b"WAVEfmt " + fields + b"data" + unknown


class _Sink(io.RawIOBase):
    """A file for encoders to write to, whose bytes are taken out as they are written.

    Encoders seek back at the end to write the length into the header; bytes that were taken stay as they were sent.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._taken = self._position = 0

    def take(self) -> bytes:
        """What has been written since the last time."""
        taken = bytes(self._waiting)
        self._taken += len(taken)
        self._waiting.clear()
        return taken

    def write(self, data: Any) -> int:
        data = bytes(data)
        start = self._position - self._taken
        self._position += len(data)
        if start < 0:
            written, start = data[-start:], 0
        else:
            written = data
        self._waiting[start : start + len(written)] = written
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._taken + len(self._waiting)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        return b""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

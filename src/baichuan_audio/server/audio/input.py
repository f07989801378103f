"""Audio files and raw samples in requests -> waveforms at the rate of the model."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...audio.formats import is_plain_wav
from ...audio.reading import AudioLimitError, AudioLimits, read_audio
from ...audio.waveform import resample
from ...errors import AudioError
from ..errors import ApiError, bad_request
from .decoding import DecoderPool

T = TypeVar("T")
PCM_RATE_HZ = 24_000
INPUT_RATE_HZ = 16_000
"""Audio is resampled to this while it is decoded; no model here reads more."""
RAW_FORMATS = ("pcm16", "pcm")
_SAMPLES_PER_S = 192_000  # four channels at 48 kHz, on average over the longest file
_MIN_SECONDS = 60.0  # of such samples, for servers with a low max_seconds
_MAX_IN_PROCESS_BYTES = 2 * 1024**2
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


def audio_limits(max_seconds: float) -> AudioLimits:
    """Limits of one file: seconds, and samples (seconds x rate x channels), which take time to decode."""
    return AudioLimits(max_seconds=max_seconds, max_samples=_SAMPLES_PER_S * max(max_seconds, _MIN_SECONDS))


def decode_base64(text: str, param: str) -> bytes:
    """Strict base64, also as a data URL (`data:audio/wav;base64,...`). Raises ApiError 400."""
    if match := _DATA_URL.match(text, 0, 256):
        if not match[2].lower().endswith(";base64"):
            raise bad_request(f"'{param}': a data URL must be in base64 (data:audio/wav;base64,...).", param)
        text = text[match.end() :]
    elif text[:8].lower().startswith(("http://", "https://", "file://")):
        raise bad_request(
            f"'{param}': addresses are not opened; send the audio itself in base64.", param, "invalid_base64"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(f"'{param}' is not valid base64.", param, "invalid_base64") from None


def read_file(data: bytes, max_seconds: float, param: str) -> Tensor:
    """An audio file, read in this process -> waveform [S] at 16 kHz. Raises ApiError 400."""
    try:
        samples, _ = read_audio(data, INPUT_RATE_HZ, audio_limits(max_seconds), name=param)
    except AudioLimitError as error:
        raise bad_request(str(error), param, error.code) from None
    except AudioError as error:
        raise bad_request(str(error), param, "invalid_audio") from None
    return torch.from_numpy(samples)


def read_pcm(data: bytes, max_seconds: float, param: str) -> Tensor:
    """16-bit little-endian samples at 24 kHz -> waveform [S] at 16 kHz. Raises ApiError 400."""
    if not data:
        raise bad_request(f"'{param}' has no samples.", param, "invalid_audio")
    if len(data) % 2:
        raise bad_request(f"'{param}' must hold whole 16-bit samples, an even number of bytes.", param, "invalid_audio")
    if len(data) / 2 > max_seconds * PCM_RATE_HZ:
        raise _too_long(max_seconds, param)
    samples = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    return resample(samples, PCM_RATE_HZ, INPUT_RATE_HZ)


def _too_long(max_seconds: float, param: str) -> ApiError:
    return bad_request(f"'{param}' is longer than {max_seconds:g} s.", param, "audio_too_long")


class AudioReader:
    """Reads audio for one server, off its event loop.

    A small WAV, which cannot decode to more than its bytes, is read on one of two threads; everything else by processes
    that can be killed (`decoding`). Cancelling a call ends its work.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, "baichuan-audio reader")
        self.pool = DecoderPool()

    def prepare(self) -> None:
        """Start the first decoder process in the background."""
        self.pool.prepare()

    def close(self) -> None:
        """Stop all threads and processes."""
        self.pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def file(self, data: bytes, max_seconds: float, param: str) -> tuple[Tensor, int]:
        """An audio file of any format -> (waveform [S] mono, 16000), of `max_seconds` at most. Raises ApiError 400."""
        if max_seconds <= 0:
            raise _too_long(max_seconds, param)
        if len(data) <= _MAX_IN_PROCESS_BYTES and is_plain_wav(data[:64]):
            return await self._run(read_file, data, max_seconds, param), INPUT_RATE_HZ
        samples = await self.pool.decode(data, INPUT_RATE_HZ, audio_limits(max_seconds), param)
        return torch.from_numpy(samples), INPUT_RATE_HZ

    async def base64(self, text: str, format: str | None, max_seconds: float, param: str) -> tuple[Tensor, int]:
        """A file in base64 or in a data URL, or for "pcm16" raw samples at 24 kHz, unless they have a WAV header."""
        data = await self._run(decode_base64, text, f"{param}.data")
        if format in RAW_FORMATS and not is_plain_wav(data[:64]):
            return await self._run(read_pcm, data, max_seconds, param), INPUT_RATE_HZ
        return await self.file(data, max_seconds, param)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

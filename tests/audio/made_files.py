"""Audio files of the formats that phones, browsers and old programs write, made with PyAV where a test needs them."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

FORMATS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "m4a": ("ipod", "aac", 44_100, {}),
    "mp4": ("mp4", "aac", 48_000, {}),
    "fragmented mp4": ("mp4", "aac", 48_000, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mov": ("mov", "aac", 44_100, {}),
    "mov with ALAC": ("mov", "alac", 44_100, {}),
    "mov with PCM": ("mov", "pcm_s16le", 48_000, {}),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, {}),
    "amr": ("amr", "libopencore_amrnb", 8_000, {}),
    "webm": ("webm", "libopus", 48_000, {}),
    "webm live": ("webm", "libopus", 48_000, {"live": "1"}),
    "mkv with AAC": ("matroska", "aac", 48_000, {}),
    "mkv with float": ("matroska", "pcm_f32le", 48_000, {}),
    "aac": ("adts", "aac", 44_100, {}),
    "aac at 11025": ("adts", "aac", 11_025, {}),
    "caf with ALAC": ("caf", "alac", 44_100, {}),
    "wma": ("asf", "wmav2", 44_100, {}),
    "mp3": ("mp3", "libmp3lame", 44_100, {}),
    "ogg with Opus": ("ogg", "libopus", 48_000, {}),
    "flv": ("flv", "aac", 44_100, {}),
    "mpeg-ts": ("mpegts", "aac", 48_000, {}),
    "avi": ("avi", "libmp3lame", 44_100, {}),
    "ac3": ("ac3", "ac3", 48_000, {}),
    "wavpack": ("wv", "wavpack", 44_100, {}),
    "tta": ("tta", "tta", 44_100, {}),
    "wav with ADPCM": ("wav", "adpcm_ms", 22_050, {}),
    "wave64": ("w64", "pcm_s16le", 22_050, {}),
    "aiff": ("aiff", "pcm_s16be", 22_050, {}),
    "au": ("au", "pcm_mulaw", 8_000, {}),
}
"""name -> FFmpeg's muxer, encoder, sample rate in Hz, and options of the muxer."""


def sine(seconds: float, rate: int, frequency_hz: float = 440.0, channels: int = 1) -> np.ndarray:
    """samples [channels, S] float32, amplitude 0.5."""
    wave = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[None].astype(np.float32), channels, axis=0)


def made(name: str, seconds: float = 1.0, channels: int = 1) -> bytes:
    """A tone of 440 Hz in that format. Raises ValueError where FFmpeg here has no such encoder."""
    muxer, codec, rate, options = FORMATS[name]
    return encoded(sine(seconds, rate, channels=channels), rate, muxer, codec, options)


def encoded(
    samples: np.ndarray | None,
    rate: int,
    muxer: str,
    codec: str,
    options: dict[str, str] | None = None,
    video: bool = False,
) -> bytes:
    """samples [C, S] float32 (None: no audio) as a file, beside a picture that moves if there shall be `video`."""
    file = io.BytesIO()
    container = av.open(file, "w", format=muxer, options=options or {})
    moving = _add_video(container) if video else None
    if samples is not None:
        layout = "mono" if len(samples) == 1 else "stereo"
        try:
            stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        except (FFmpegError, ValueError, av.codec.codec.UnknownCodecError) as error:
            raise ValueError(f"no encoder {codec} here") from error
        stream.bit_rate = 12_200 if rate == 8_000 else 64_000
        frame = av.AudioFrame.from_ndarray(samples.copy(), format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=_frame_size(stream))
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    if moving is not None:
        _write_video(container, moving)
    container.close()
    return file.getvalue()


def _frame_size(stream: Any) -> int:
    stream.codec_context.open()
    return int(stream.codec_context.frame_size or 1024)


def _add_video(container: Any) -> Any:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    return stream


def _write_video(container: Any, stream: Any) -> None:
    for number in range(10):
        picture = np.full((48, 64, 3), 20 * number, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode(None))

"""Decodes formats of phones and browsers (MP4, WebM, AAC, AMR, ALAC ...) with PyAV (FFmpeg).

Only audio is decoded. The caller chooses the demuxer, never one that opens other files or addresses; the decoders are
those listed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import AudioError
from .formats import FileFormat

_DECODERS = frozenset(
    (
        *("aac", "aac_latm", "ac3", "alac", "amrnb", "amrwb", "ape", "eac3", "flac", "mp1", "mp1float", "mp2"),
        *("libopencore_amrnb", "libopencore_amrwb", "libopus", "libspeex", "libvorbis", "opus", "speex", "vorbis"),
        *("mp2float", "mp3", "mp3float", "tta", "wavpack", "wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice"),
        *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "adpcm_g726", "adpcm_swf", "gsm", "gsm_ms", "nellymoser"),
        *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be"),
        *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
    )
)
_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}
_BUFFER_BYTES = 1 << 16
_MAX_DAMAGED_PACKETS = 1000
_MIN_BLOCK = 1 << 14  # samples of each channel


def available() -> bool:
    """Whether PyAV is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def pyav_blocks(file: Any, format: FileFormat, name: str) -> Iterator[tuple[Any, int]]:
    """A file -> blocks (samples [N, C] float32, sample_rate) of its first audio stream, in order.

    An empty block is a packet without audio, so that the caller can check its time limit. Damaged packets are
    skipped. Raises AudioError when the file has no audio, or none of it can be decoded.
    """
    import av

    decoders = ",".join(sorted(_DECODERS))
    try:
        container = av.open(
            file,
            format=format.demuxer,
            options={"codec_whitelist": decoders, "protocol_whitelist": "none"},
            metadata_errors="ignore",
            buffer_size=_BUFFER_BYTES,
        )
    except Exception as error:  # damaged files raise many kinds
        raise AudioError(f"{name}: {format.name}, but truncated or damaged ({_reason(error)}).") from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name}: {format.name} without an audio stream.")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None or context.name not in _DECODERS:
            codec = context.name if context is not None else "an unknown codec"
            raise AudioError(
                f"{name}: {format.name} with audio encoded as {codec}, which is not supported; convert it to WAV."
            )
        context.thread_count = 1
        yield from _merged(_decoded(container, stream, f"{name}: {format.name}"))


def _merged(blocks: Iterator[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    """Merges consecutive small blocks of equal rate and channels, which saves time in the later steps."""
    pending: list[Any] = []
    samples, kind = 0, (0, 0)
    for block, rate in blocks:
        if not len(block):
            yield block, rate
            continue
        if kind != (rate, block.shape[1]) or samples >= _MIN_BLOCK:
            if pending:
                yield np.concatenate(pending), kind[0]
            pending, samples, kind = [], 0, (rate, block.shape[1])
        pending.append(block)
        samples += len(block)
    if pending:
        yield np.concatenate(pending), kind[0]


def _decoded(container: Any, stream: Any, where: str) -> Iterator[tuple[Any, int]]:
    packets, damage, damaged, has_audio = container.demux(stream), "", 0, False
    while damaged < _MAX_DAMAGED_PACKETS:
        try:
            packet = next(packets, None)
        except Exception as error:  # keep what was decoded before
            damage = _reason(error)
            break
        if packet is None:
            break
        try:
            blocks = [(_samples(frame), frame.sample_rate) for frame in packet.decode()]
        except Exception as error:  # the next packet may be valid
            damage, damaged, blocks = _reason(error), damaged + 1, []
        has_audio = has_audio or bool(blocks)
        yield from blocks or [(np.zeros((0, 1), np.float32), 0)]
    if damage and not has_audio:
        raise AudioError(f"{where}, but damaged: none of its audio can be decoded ({damage}).")


def _samples(frame: Any) -> Any:
    """One frame as samples [N, C] float32, full scale 1.0."""
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    scale = _SCALE.get(samples.dtype.str[1:])
    if scale is None:
        return samples.astype(np.float32)
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - np.float32(scale)) / np.float32(scale)
    return samples.astype(np.float32) / np.float32(scale)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")

"""Waveforms: read, write, resample, mix to mono, join. Always float32 in [-1, 1]."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from ..errors import AudioError
from .mixing import full_scale, integer_scale, mix_to_mono
from .reading import AudioSource, read_audio


def load_waveform(source: AudioSource, sample_rate: int) -> Tensor:
    """Read an audio file (a path, its bytes, or a file open for reading) -> mono waveform [S] float32 at that rate.

    Formats, mixing and scale: see `reading.read_audio`. Raises AudioError for a missing file, one that is not audio,
    an empty one, samples that are not finite, and files above 2 GiB or four hours (split such a file first).
    """
    return torch.from_numpy(read_audio(source, sample_rate)[0])


def prepare_waveform(waveform: Tensor, original_rate: int, sample_rate: int, where: str = "waveform") -> Tensor:
    """Check a waveform [S] (or [C, S] or [S, C]: mixed to mono) and resample it -> [S'] float32 in [-1, 1].

    Integers are divided by the full scale of their type (8, 16, 24 or 32 bits), and so are unscaled floating-point
    samples. Raises AudioError when it is empty, not finite, or the rate is not positive.
    """
    if original_rate <= 0:
        raise AudioError(f"{where}: a sample rate of {original_rate} Hz is impossible.")
    if waveform.ndim not in (1, 2):
        raise AudioError(f"{where}: expected samples of shape [S] or [channels, S], got {tuple(waveform.shape)}.")
    if waveform.numel() == 0:
        raise AudioError(f"{where}: it has no samples.")
    waveform = _as_floating(waveform, where)
    if waveform.ndim == 2:
        by_sample = waveform if waveform.shape[0] > waveform.shape[1] else waveform.T
        mono = mix_to_mono(by_sample.detach().cpu().numpy())
        waveform = torch.from_numpy(mono).to(waveform.device)
    scale = full_scale(float(waveform.abs().max()), where)
    return resample(waveform if scale == 1.0 else waveform / scale, original_rate, sample_rate)


def _as_floating(waveform: Tensor, where: str) -> Tensor:
    """Samples of any type as float32, integers divided by their full scale."""
    if waveform.is_floating_point():
        return waveform.float()
    if waveform.dtype == torch.uint8:
        return (waveform.float() - 128) / 128
    if waveform.dtype in (torch.int8, torch.int16):
        return waveform.float() / (1 << (8 * waveform.element_size() - 1))
    if waveform.dtype in (torch.int32, torch.int64):
        return (waveform.double() / integer_scale(int(waveform.double().abs().max()))).float()
    raise AudioError(f"{where}: the samples are of type {waveform.dtype}; give floating-point ones in [-1, 1].")


def save_waveform(path: str | os.PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write waveform [S] as 16-bit audio; the format follows the suffix. Written to a temporary file, then renamed.

    Raises AudioError for a suffix that libsndfile cannot write, or a missing folder.
    """
    path = Path(path)
    container, subtype = sound_format(path)
    if not path.parent.is_dir():
        raise AudioError(f"{path}: the folder {path.parent} does not exist.")
    samples = waveform.detach().float().clamp(-1, 1).cpu().numpy()
    temporary = path.with_name(f".{os.getpid()}.{path.name[-100:]}.part")
    try:
        soundfile.write(temporary, samples, sample_rate, format=container, subtype=subtype)
        os.replace(temporary, path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: the audio could not be written ({error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def sound_format(path: Path) -> tuple[str, str]:
    """The container and encoding of a file name's suffix; AudioError for one that cannot be written."""
    suffix = path.suffix.lstrip(".").upper()
    formats = {"OGG": ("OGG", "VORBIS"), "OPUS": ("OGG", "OPUS"), "MP3": ("MP3", "MPEG_LAYER_III")}
    container, subtype = formats.get(suffix, (suffix, "PCM_16"))
    # RAW has no header
    if container == "RAW" or container not in soundfile.available_formats():
        raise AudioError(f"{path}: '{path.suffix}' is no audio format that can be written; use .wav or .flac.")
    if not soundfile.check_format(container, subtype):
        raise AudioError(f"{path}: '{path.suffix}' does not support 16-bit audio; use .wav or .flac.")
    return container, subtype


def resample(waveform: Tensor, original_rate: int, sample_rate: int) -> Tensor:
    """Band-limited resampling of waveform [S] -> [ceil(S * sample_rate / original_rate)] (about)."""
    if original_rate == sample_rate:
        return waveform
    samples = soxr.resample(waveform.cpu().numpy(), original_rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(waveform.device)


def crossfade(first: Tensor, second: Tensor, samples: int) -> Tensor:
    """Join two waveforms [S1], [S2] with a linear cross-fade over `samples` -> [S1 + S2 - samples]."""
    samples = min(samples, first.shape[-1], second.shape[-1])
    if samples == 0:
        return torch.cat([first, second], dim=-1)
    rise = torch.linspace(0, 1, samples, dtype=first.dtype, device=first.device)
    overlap = first[-samples:] * (1 - rise) + second[:samples] * rise
    return torch.cat([first[:-samples], overlap, second[samples:]], dim=-1)


def decibels(waveform: Tensor) -> float:
    """Level of waveform [S] in dB relative to full scale (root mean square; -120 for silence)."""
    power = float(waveform.double().square().mean())
    return 10 * math.log10(max(power, 1e-12))

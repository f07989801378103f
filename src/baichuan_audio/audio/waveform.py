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

MAX_FILE_BYTES = 2 * 1024**3
MAX_SECONDS = 4 * 3600.0
_BLOCK_FRAMES = 1 << 20


def load_waveform(path: str | os.PathLike[str], sample_rate: int) -> Tensor:
    """Read any format libsndfile knows, mix to mono, resample -> waveform [S] float32.

    Raises AudioError for a missing file, one that is not audio, an empty one, samples that are not finite,
    and files above 2 GiB or four hours (the limits guard memory; cut such a file first).
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: there is no such audio file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise AudioError(f"{path}: the file is larger than 2 GiB; cut it into shorter files.")
    try:
        with soundfile.SoundFile(path) as file:
            original_rate = file.samplerate
            if file.frames > MAX_SECONDS * original_rate:
                raise AudioError(f"{path}: longer than {MAX_SECONDS / 3600:.0f} hours; cut it into shorter files.")
            # blockwise, so that many channels never stand in memory for the whole file
            blocks = [block.mean(axis=1) for block in file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True)]
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: not audio in a format that can be read ({error.error_string}).") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return prepare_waveform(torch.from_numpy(samples), original_rate, sample_rate, str(path))


def prepare_waveform(waveform: Tensor, original_rate: int, sample_rate: int, where: str = "waveform") -> Tensor:
    """Check a waveform [S] (or [C, S]: mixed to mono) and resample it -> [S'] float32.

    Raises AudioError when it is empty, not finite, or the rate makes no sense.
    """
    if original_rate <= 0:
        raise AudioError(f"{where}: a sample rate of {original_rate} Hz is impossible.")
    if waveform.ndim == 2:
        waveform = waveform.float().mean(dim=0)
    if waveform.ndim != 1:
        raise AudioError(f"{where}: expected samples of shape [S] or [channels, S], got {tuple(waveform.shape)}.")
    if waveform.numel() == 0:
        raise AudioError(f"{where}: there are no samples in it.")
    waveform = waveform.float()
    if not bool(torch.isfinite(waveform).all()):
        raise AudioError(f"{where}: some samples are NaN or infinite.")
    return resample(waveform, original_rate, sample_rate)


def save_waveform(path: str | os.PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write waveform [S] as 16-bit audio; the format follows the suffix. Written aside, then renamed.

    Raises AudioError when the suffix names no format libsndfile writes, or the folder does not exist.
    """
    path = Path(path)
    suffix = path.suffix.lstrip(".").upper()
    formats = {"OGG": ("OGG", "VORBIS"), "OPUS": ("OGG", "OPUS"), "MP3": ("MP3", "MPEG_LAYER_III")}
    container, subtype = formats.get(suffix, (suffix, "PCM_16"))
    if container not in soundfile.available_formats():
        raise AudioError(f"{path}: '{path.suffix}' names no audio format that can be written; use .wav or .flac.")
    if not path.parent.is_dir():
        raise AudioError(f"{path}: the folder {path.parent} does not exist.")
    samples = waveform.detach().float().clamp(-1, 1).cpu().numpy()
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        soundfile.write(aside, samples, sample_rate, format=container, subtype=subtype)
        os.replace(aside, path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: the audio could not be written ({error}).") from error
    finally:
        aside.unlink(missing_ok=True)


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

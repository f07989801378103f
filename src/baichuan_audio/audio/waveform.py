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
_LOUDEST = 1e6  # 16-bit samples that were not scaled are below it; far above it spectra overflow


class SequentialSound(soundfile.SoundFile):
    """Read from the beginning to the end, as far as there are samples.

    For any file that can seek soundfile believes the header's count of frames, which in a stream is a guess, and in a
    file that was cut short wrong: what is missing would be whatever lay in memory.
    """

    def seekable(self) -> bool:
        return False


def is_file(path: Path) -> bool:
    """`Path.is_file`, False as well for what can be no file name (too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def load_waveform(path: str | os.PathLike[str], sample_rate: int) -> Tensor:
    """Read any format libsndfile knows, mix to mono, resample -> waveform [S] float32.

    Raises AudioError for a missing file, one that is not audio, an empty one, samples that are not finite,
    and files above 2 GiB or four hours (the limits guard memory; cut such a file first).
    """
    path = Path(path)
    if not is_file(path):
        raise AudioError(f"{path}: there is no such audio file, or it is no regular one.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise AudioError(f"{path}: the file is larger than 2 GiB; cut it into shorter files.")
    try:
        with SequentialSound(path) as file:
            original_rate, samples_read, blocks = file.samplerate, 0, []
            # blockwise, so that many channels never stand in memory for the whole file; counted, as headers may lie
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                samples_read += len(block)
                if samples_read > MAX_SECONDS * original_rate:
                    raise AudioError(f"{path}: longer than {MAX_SECONDS / 3600:.0f} hours; cut it into shorter files.")
                blocks.append(block.mean(axis=1))
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, ValueError) as error:
        told = getattr(error, "error_string", None) or error
        raise AudioError(f"{path}: not audio in a format that can be read ({told}).") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return prepare_waveform(torch.from_numpy(samples), original_rate, sample_rate, str(path))


def prepare_waveform(waveform: Tensor, original_rate: int, sample_rate: int, where: str = "waveform") -> Tensor:
    """Check a waveform [S] (or [C, S]: mixed to mono) and resample it -> [S'] float32.

    Raises AudioError when it is empty, not finite, or the rate makes no sense.
    """
    if original_rate <= 0:
        raise AudioError(f"{where}: a sample rate of {original_rate} Hz is impossible.")
    if waveform.ndim not in (1, 2):
        raise AudioError(f"{where}: expected samples of shape [S] or [channels, S], got {tuple(waveform.shape)}.")
    if waveform.numel() == 0:
        raise AudioError(f"{where}: there are no samples in it.")
    if not waveform.is_floating_point():
        raise AudioError(f"{where}: the samples are of type {waveform.dtype}; give floating-point ones in [-1, 1].")
    waveform = waveform.float()
    if waveform.ndim == 2:
        waveform = waveform.mean(dim=0)
    if not bool(torch.isfinite(waveform).all()):
        raise AudioError(f"{where}: some samples are NaN or infinite.")
    if float(waveform.abs().max()) > _LOUDEST:
        raise AudioError(f"{where}: samples of up to {float(waveform.abs().max()):.3g} are no audio; give [-1, 1].")
    return resample(waveform, original_rate, sample_rate)


def save_waveform(path: str | os.PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write waveform [S] as 16-bit audio; the format follows the suffix. Written aside, then renamed.

    Raises AudioError when the suffix names no format libsndfile writes, or the folder does not exist.
    """
    path = Path(path)
    container, subtype = sound_format(path)
    if not path.parent.is_dir():
        raise AudioError(f"{path}: the folder {path.parent} does not exist.")
    samples = waveform.detach().float().clamp(-1, 1).cpu().numpy()
    aside = path.with_name(f".{os.getpid()}.{path.name[-100:]}.part")
    try:
        soundfile.write(aside, samples, sample_rate, format=container, subtype=subtype)
        os.replace(aside, path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: the audio could not be written ({error}).") from error
    finally:
        aside.unlink(missing_ok=True)


def sound_format(path: Path) -> tuple[str, str]:
    """The container and coding that a file name's suffix stands for; AudioError where none can be written."""
    suffix = path.suffix.lstrip(".").upper()
    formats = {"OGG": ("OGG", "VORBIS"), "OPUS": ("OGG", "OPUS"), "MP3": ("MP3", "MPEG_LAYER_III")}
    container, subtype = formats.get(suffix, (suffix, "PCM_16"))
    # RAW would be samples without a word of what they are
    if container == "RAW" or container not in soundfile.available_formats():
        raise AudioError(f"{path}: '{path.suffix}' names no audio format that can be written; use .wav or .flac.")
    if not soundfile.check_format(container, subtype):
        raise AudioError(f"{path}: '{path.suffix}' takes no 16-bit audio; use .wav or .flac.")
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

"""Training batches of the audio tokenizer: augmented log-mels, clean waveforms, the phoneme at every position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor

from ...audio.mel import MelConfig, warped_bands, whisper_log_mels
from ...audio_tokenizer import AudioTokenizer
from ...data.alignment.phone_alignment import PHONES_PER_FRAME, Alignment, frame_phonemes
from ...data.store.manifest import SAMPLE_RATE
from ...errors import ConfigError
from ...layers.lengths import valid_mask
from ..common.distributed.world import World
from .clip_batches import ClipBatch
from .recipe import AugmentRecipe

Alignments = Mapping[str, Alignment]


@dataclass
class TokenizerBatch:
    """One step's tensors: log_mel [B, M, T] with mel_lengths [B], clean waveforms [B, S] at 16 kHz with samples [B]."""

    log_mel: Tensor
    mel_lengths: Tensor
    waveforms: Tensor
    samples: Tensor
    transcripts: list[str | None]
    texts: list[str | None]
    languages: list[str]
    labels: Tensor
    """[B, 4 T] the phoneme at each of the phonetic head's positions, -100 where unknown."""
    rows: list[int]
    """The clips' numbers in the step's batch."""
    batch_size: int
    """How many the step has."""

    def parts(self, run: World, pieces: int = 1) -> list[TokenizerBatch]:
        """What this process computes of the batch, in as many micro-batches, or fewer where there are not enough clips.

        Raises ConfigError where there are fewer clips than processes.
        """
        if self.batch_size < run.size:
            raise ConfigError(f"a step has {self.batch_size} clips for {run.size} processes; raise `batch_seconds`.")
        pieces = min(pieces, self.batch_size // run.size)
        return [self._rows(run.part(range(self.batch_size), pieces, piece)) for piece in range(pieces)]

    def _rows(self, mine: list[int]) -> TokenizerBatch:
        whole = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "batch_size"}
        part = {name: v[mine] if isinstance(v, Tensor) else [v[row] for row in mine] for name, v in whole.items()}
        return TokenizerBatch(**part, batch_size=self.batch_size)  # type: ignore[arg-type]

    def to(self, device: str) -> TokenizerBatch:
        self.log_mel, self.mel_lengths = self.log_mel.to(device), self.mel_lengths.to(device)
        self.waveforms, self.samples = self.waveforms.to(device), self.samples.to(device)
        self.labels = self.labels.to(device)
        return self


def prepare(
    batch: ClipBatch,
    tokenizer: AudioTokenizer,
    augment: AugmentRecipe | None,
    seed: tuple[int, int],
    alignments: Alignments | None = None,
    decoded: int | None = None,
) -> TokenizerBatch:
    """Resample to the tokenizer's rate (with the step's speed), augment, log-mel. All randomness is from `seed`.

    The first `decoded` clips (None: all) are not warped, since the decoder must reproduce their formants.
    """
    random = np.random.default_rng((*seed, 1))
    rate = tokenizer.config.sampling_rate
    speed = float(random.uniform(augment.speed_range[0], augment.speed_range[1])) if augment else 1.0
    clean = torch.from_numpy(
        np.ascontiguousarray(soxr.resample(batch.waveforms.numpy().T, SAMPLE_RATE * speed, rate, quality="MQ").T)
    )
    samples = (batch.samples * (rate / (SAMPLE_RATE * speed))).long().clamp(max=clean.shape[1])
    augmented = _add_gain_and_noise(clean, samples, augment, random) if augment else clean
    log_mel, lengths = whisper_log_mels(augmented, samples, tokenizer.config.mel, tokenizer.config.max_audio_seconds)
    if augment:
        log_mel = _tilt_and_mask(log_mel, augment, random)
        plain = len(log_mel) if decoded is None else decoded
        if augment.warp and plain < len(log_mel):
            log_mel[plain:] = _warp(log_mel[plain:], tokenizer.config.mel, augment.warp, random)
    labels = _labels(batch, lengths, tokenizer, speed, alignments or {})
    rows = list(range(len(clean)))
    written = batch.transcripts, batch.texts, batch.languages
    return TokenizerBatch(log_mel, lengths, clean, samples, *written, labels, rows, len(clean))


def _labels(
    batch: ClipBatch, mel_lengths: Tensor, tokenizer: AudioTokenizer, speed: float, alignments: Alignments
) -> Tensor:
    """The aligned phoneme at every position of the phonetic head, -100 where there is none."""
    frames = tokenizer.bridge.output_lengths(tokenizer.encoder.output_lengths(mel_lengths))
    labels = torch.full((len(frames), int(frames.max()), PHONES_PER_FRAME), -100)
    for row, (name, start, count) in enumerate(zip(batch.ids, batch.starts, frames.tolist(), strict=True)):
        if name in alignments:
            sounds = frame_phonemes(alignments[name], count, tokenizer.frame_rate, start / SAMPLE_RATE, speed)
            labels[row, :count] = torch.from_numpy(sounds)
    return labels.flatten(1)


def _add_gain_and_noise(clean: Tensor, samples: Tensor, augment: AugmentRecipe, random: np.random.Generator) -> Tensor:
    rows = clean.shape[0]
    gain = torch.from_numpy(random.uniform(augment.gain_db_range[0], augment.gain_db_range[1], (rows, 1))).float()
    level = torch.from_numpy(random.uniform(augment.noise_db_range[0], augment.noise_db_range[1], (rows, 1))).float()
    noisy = torch.from_numpy(random.random((rows, 1)) < augment.noise_share)
    noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32))
    noise = noise * 10 ** (level / 20) * noisy * valid_mask(samples, clean.shape[1])
    return clean * 10 ** (gain / 20) + noise


def _tilt_and_mask(log_mel: Tensor, augment: AugmentRecipe, random: np.random.Generator) -> Tensor:
    """log_mel [B, M, T] (a quarter of log10 of power, 40 dB a unit) tilted, and some bands set to the clip's mean."""
    rows, bands, _ = log_mel.shape
    tilt = torch.from_numpy(random.uniform(-augment.tilt_db, augment.tilt_db, (rows, 1))).float() / 40
    log_mel = log_mel + (tilt * torch.linspace(-1, 1, bands))[..., None]
    width = torch.from_numpy(random.integers(0, augment.masked_bands, (rows, 1), endpoint=True))
    width = width * torch.from_numpy(random.random((rows, 1)) < 0.5)
    first = torch.from_numpy(random.integers(0, bands, (rows, 1)))
    band = torch.arange(bands)
    hidden = ((band >= first) & (band < first + width))[..., None]
    return torch.where(hidden, log_mel.mean((1, 2), keepdim=True), log_mel)


def _warp(log_mel: Tensor, mel: MelConfig, max_warp: float, random: np.random.Generator) -> Tensor:
    """log_mel [B, M, T] with its frequency axis stretched by up to `max_warp`, interpolated linearly between bands."""
    factor = torch.from_numpy(random.uniform(1 - max_warp, 1 + max_warp, len(log_mel)))
    position = warped_bands(mel, factor).clamp(0, log_mel.shape[1] - 1)
    below = position.long().clamp(max=log_mel.shape[1] - 2)
    share = (position - below)[..., None]
    low, high = (log_mel.gather(1, at[..., None].expand_as(log_mel)) for at in (below, below + 1))
    return low + share * (high - low)

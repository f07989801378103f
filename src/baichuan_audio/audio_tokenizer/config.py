"""Sizes of the audio tokenizer, read from a checkpoint's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..audio.mel import MelConfig
from ..config import check_size, select
from ..errors import ConfigError

_MAX_PIECE_SECONDS = 3600  # seconds


@dataclass(frozen=True)
class AudioConfig:
    """`audio_config` of `config.json` (docs/model.md, 2); names are the released ones."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    sampling_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 160
    num_mel_bins: int = 128
    max_audio_seconds: float = 30.0
    kernel_size: int = 3
    stride_size: int = 2
    avg_pooler: int = 4
    decoder_kernel_size: int = 3
    decoder_stride_size: int = 2
    segment_norm: bool = True
    """True as released: `dconv1` normalises over the whole segment, which is not causal. False: each
    frame is normalised alone, with the same parameters, so that code t never changes an earlier frame."""

    def __post_init__(self) -> None:
        if not 0 < self.max_audio_seconds <= _MAX_PIECE_SECONDS:
            raise ConfigError(
                f"audio_config: max_audio_seconds {self.max_audio_seconds} must lie between 0 and {_MAX_PIECE_SECONDS}."
            )
        if self.d_model % self.encoder_attention_heads or self.d_model % self.decoder_attention_heads:
            raise ConfigError(f"audio_config: d_model {self.d_model} must be divisible by both head counts.")

    @property
    def mel(self) -> MelConfig:
        """The log-mel of the encoder's input (Whisper's)."""
        return MelConfig(
            self.sampling_rate, self.n_fft, self.hop_length, self.num_mel_bins, f_max=self.sampling_rate / 2
        )

    @property
    def piece_samples(self) -> int:
        """Samples of the longest piece that is encoded at once."""
        return int(self.max_audio_seconds * self.sampling_rate)

    @property
    def encoder_positions(self) -> int:
        return self.piece_samples // (self.hop_length * self.stride_size)

    @property
    def decoder_positions(self) -> int:
        return self.piece_samples // self.hop_length

    @property
    def piece_codes(self) -> int:
        """Code frames of the longest piece."""
        return self.encoder_positions // self.avg_pooler

    @property
    def min_samples(self) -> int:
        """Samples of the shortest piece that gives one code frame (and is no shorter than `n_fft`)."""
        mel_frames = (self.avg_pooler - 1) * self.stride_size + 1
        return max(self.n_fft, (mel_frames - 1) * self.hop_length)

    @property
    def frame_rate(self) -> float:
        """Code frames a second (12.5 as released)."""
        return self.sampling_rate / (self.hop_length * self.stride_size * self.avg_pooler)


@dataclass(frozen=True)
class CoarseMelConfig:
    """`vocoder_config` of `config.json`: the coarse 16 kHz mel of the audio decoder (training, diagnostics)."""

    channels: tuple[int, ...]
    sampling_rate: int = 16000
    hop_length: int = 256
    n_fft: int = 1024
    num_mel_bins: int = 80

    @property
    def mel(self) -> MelConfig:
        return MelConfig(
            self.sampling_rate, self.n_fft, self.hop_length, self.num_mel_bins, f_max=self.sampling_rate / 2
        )


def codebook_sizes(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Entries of each codebook, coarse level first, of a whole `config.json`; raises ConfigError where it has none."""
    try:
        sizes = tuple(int(size) for size in config["audio_config"]["vq_config"]["codebook_sizes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("config.json: audio_config.vq_config.codebook_sizes is missing or no list.") from error
    if not sizes:
        raise ConfigError("config.json: codebook_sizes must name at least one codebook.")
    for size in sizes:
        check_size("codebook_sizes", size, "config.json: audio_config.vq_config")
    return sizes


def audio_config(config: Mapping[str, Any]) -> AudioConfig:
    """`audio_config` of a whole `config.json`."""
    return select(AudioConfig, config.get("audio_config") or {}, "config.json: audio_config")


def coarse_mel_config(config: Mapping[str, Any]) -> CoarseMelConfig:
    """`vocoder_config` of a whole `config.json`."""
    return select(CoarseMelConfig, config.get("vocoder_config") or {}, "config.json: vocoder_config")

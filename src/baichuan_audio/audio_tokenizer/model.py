"""The audio tokenizer: waveform -> codes [K, T] at 12.5 Hz -> hidden frames -> waveform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..audio.mel import whisper_log_mel
from ..audio.waveform import crossfade, prepare_waveform
from ..errors import AudioError
from .bridge import AudioBridge
from .config import AudioConfig, CoarseMelConfig, audio_config, coarse_mel_config, codebook_sizes
from .decoder import AudioDecoder
from .encoder import AudioEncoder

CROSSFADE_MS = 10
_ENCODE_BATCH = 8


class AudioTokenizer(nn.Module):
    """Encoder, RVQ bridge and audio decoder; every stage can be called separately, unbatched.

    `decode` also needs flow decoder and vocoder: the whole model provides them by `attach_synthesis`.
    """

    def __init__(self, config: AudioConfig, coarse: CoarseMelConfig, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.coarse, self.codebook_sizes = config, coarse, sizes
        self.encoder = AudioEncoder(config)
        self.bridge = AudioBridge(config, sizes)
        self.decoder = AudioDecoder(config, coarse)
        self._synthesis: Callable[[Tensor], Tensor] | None = None
        self._output_rate = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AudioTokenizer:
        """Build from a whole `config.json`; raises ConfigError where an entry is missing or impossible."""
        return cls(audio_config(config), coarse_mel_config(config), codebook_sizes(config))

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Code frames a second."""
        return self.config.frame_rate

    def attach_synthesis(self, synthesis: Callable[[Tensor], Tensor], sample_rate: int) -> None:
        """Set the synthesis of `decode`: hidden [L, D] -> waveform [S] at `sample_rate`."""
        self._synthesis, self._output_rate = synthesis, sample_rate

    # -- waveform to codes ------------------------------------------------------------------------------------

    def log_mel(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Log-mel of one piece: waveform [S] (any rate) -> [M, T] float32, valid frames only.

        Raises AudioError for audio longer than `max_audio_seconds` (use `encode`, which splits) or unusable.
        """
        waveform = prepare_waveform(waveform, sample_rate, self.config.sampling_rate)
        if waveform.shape[0] > self.config.piece_samples:
            raise AudioError(
                f"a piece has at most {self.config.max_audio_seconds:g} s of audio; split it, or call encode()."
            )
        return whisper_log_mel(waveform.to(self._device), self.config.mel, self.config.max_audio_seconds)

    @torch.no_grad()
    def features(self, log_mel: Tensor) -> Tensor:
        """log_mel [M, T] -> encoder features [L, D] at 50 Hz."""
        return self.encoder(log_mel[None].to(self._dtype))[0]

    @torch.no_grad()
    def quantize(self, features: Tensor) -> Tensor:
        """features [L, D] -> codes [K, L // 4]."""
        return self.bridge.quantize(features[None])[0]

    @torch.no_grad()
    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """waveform [S] (or [channels, S]) at any rate -> codes [K, T] int64, T about 12.5 a second.

        Pieces of `max_audio_seconds` are encoded independently (several in one batch) and concatenated. Raises
        AudioError when the audio is empty, not finite, or too short for one code frame.
        """
        pieces = self.pieces(waveform, sample_rate)
        mels = [self.log_mel(piece, self.config.sampling_rate) for piece in pieces]
        codes: list[Tensor] = []
        for start in range(0, len(mels), _ENCODE_BATCH):
            codes += self.encode_mels(mels[start : start + _ENCODE_BATCH])
        return torch.cat(codes, dim=1)

    def pieces(self, waveform: Tensor, sample_rate: int) -> list[Tensor]:
        """waveform [S] (or [channels, S]) at any rate -> the pieces [S'] at the tokenizer's rate that `encode` makes.

        Raises AudioError when the audio is empty, not finite, or too short for one code frame.
        """
        waveform = prepare_waveform(waveform, sample_rate, self.config.sampling_rate)
        pieces = [p for p in waveform.split(self.config.piece_samples) if p.shape[0] >= self.config.min_samples]
        if not pieces:
            min_ms = 1000 * self.config.min_samples / self.config.sampling_rate
            raise AudioError(
                f"the audio lasts {1000 * waveform.shape[0] / self.config.sampling_rate:.0f} ms; "
                f"at least {min_ms:.0f} ms are needed for one code frame."
            )
        return pieces

    def encode_mels(self, mels: list[Tensor]) -> list[Tensor]:
        """log-mels [M, T_i] -> codes [K, T_i'] of each."""
        if len(mels) == 1:
            return [self.quantize(self.features(mels[0]))]
        lengths = torch.tensor([mel.shape[1] for mel in mels], device=self._device)
        padded = pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
        features = self.encoder(padded.to(self._dtype), lengths)
        feature_lengths = self.encoder.output_lengths(lengths)
        codes = self.bridge.quantize(features, feature_lengths)
        counts = self.bridge.output_lengths(feature_lengths).tolist()
        return [row[:, :count] for row, count in zip(codes, counts, strict=True)]

    # -- codes to waveform ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def dequantize(self, codes: Tensor) -> Tensor:
        """codes [K, T] -> embeddings [T, D]. Raises AudioError for codes of the wrong shape or range."""
        self.check_codes(codes)
        return self.bridge.dequantize(codes[None])[0]

    @torch.no_grad()
    def decoder_hidden(self, embeddings: Tensor) -> Tensor:
        """embeddings [T, D] -> hidden frames [L, D] at 50 Hz, the input of the flow decoder."""
        return self.decoder.hidden(embeddings[None])[0]

    @torch.no_grad()
    def coarse_refined_mel(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [L, D] -> coarse and refined 16 kHz natural-log mel, each [F, M] (a diagnostic)."""
        coarse, refined = self.decoder.mels(hidden[None])
        return coarse[0], refined[0]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [K, T] -> waveform [S] at 24 kHz; pieces of `max_audio_seconds` are joined by a 10 ms cross-fade.

        Raises AudioError for codes of the wrong shape or range.
        """
        self.check_codes(codes)
        if self._synthesis is None:
            raise AudioError("decode() needs the flow decoder and the vocoder; use the tokenizer of a whole model.")
        waveforms = [
            self._synthesis(self.decoder_hidden(self.dequantize(piece)))
            for piece in codes.long().split(self.config.piece_codes, dim=1)
        ]
        overlap = self._output_rate * CROSSFADE_MS // 1000
        return functools.reduce(lambda first, second: crossfade(first, second, overlap), waveforms)

    def check_codes(self, codes: Tensor) -> None:
        """Raises AudioError for codes [K, T] of the wrong shape or range."""
        if codes.ndim != 2 or codes.shape[0] != self.num_codebooks or codes.shape[1] == 0:
            raise AudioError(f"codes must have the shape [{self.num_codebooks}, T], T > 0, not {list(codes.shape)}.")
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise AudioError(f"codes must be whole numbers, not {codes.dtype}.")
        limits = torch.tensor(self.codebook_sizes, device=codes.device)
        if bool((codes < 0).any()) or bool((codes >= limits[:, None]).any()):
            raise AudioError(f"each code must lie between 0 and its codebook's size {list(self.codebook_sizes)} - 1.")

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.conv1.weight.dtype

    @property
    def _device(self) -> torch.device:
        return self.encoder.conv1.weight.device

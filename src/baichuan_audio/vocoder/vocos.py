"""Vocos (arXiv 2306.00814), a vocoder that works at frame rate: ConvNeXt blocks, then one inverse STFT.

Two differences from the paper. Convolutions are causal, except for two frames in the first one, so that streaming is
exact: chunks of any size give the samples of the whole mel. And the head does not predict phases; it filters the
spectra of a pulse train and of noise (`excitation`), and starts from the envelope of the mel, so that it gives speech
after minutes of training on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..audio.mel import MelConfig
from ..config import select
from ..errors import CheckpointError, ConfigError
from ..safetensors_io import write_tensors
from .excitation import NOISE_FRAMES, accumulate_phase, noise_table, pulse_spectra, synthesis_window
from .spectrum_head import SpectrumHead

# ln(1e-5), the floor of the natural-log mel: shifted to 0, so that zero padding is digital silence.
_MEL_FLOOR = math.log(1e-5)
_MEL_SCALE = 4.0


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a Vocos; in a checkpoint's `config.json` under `mel_vocoder_config`."""

    MAY_BE_ZERO: ClassVar = ("lookahead_frames",)
    dim: int = 256
    ffn_dim: int = 768
    num_layers: int = 6
    kernel_size: int = 7
    lookahead_frames: int = 2
    n_fft: int = 1920
    hop_length: int = 480
    num_mel_bins: int = 80
    sample_rate: int = 24000
    f0_bins: int = 96
    f0_min_hz: float = 55.0
    f0_max_hz: float = 520.0
    type: str = "vocos"

    def __post_init__(self) -> None:
        if self.type != "vocos":
            raise ConfigError(f"mel_vocoder_config: type '{self.type}' is not known; it must be 'vocos'")
        if self.n_fft % (2 * self.hop_length):
            raise ConfigError("mel_vocoder_config: n_fft must be an even multiple of hop_length")
        if not 0 <= self.lookahead_frames < self.kernel_size:
            raise ConfigError("mel_vocoder_config: lookahead_frames must be less than kernel_size")

    @property
    def margin(self) -> int:
        """Samples by which the first and the last STFT frame reach beyond the waveform ("same" padding)."""
        return (self.n_fft - self.hop_length) // 2


@dataclass
class VocosState:
    """State of a stream. All tensors are [B, ...]."""

    mel: Tensor  # [B, M, <= kernel - 1] the last input frames, normalised
    blocks: list[Tensor]  # per block [B, dim, kernel - 1], the last inputs of its depthwise convolution
    frames: int  # excitation frames so far: the index in the noise table
    cycles: Tensor  # [B] float64, phase of the pulse train at the last frame
    f0: Tensor  # [B] in Hz at the last frame
    overlap: Tensor  # [B, n_fft - hop] samples that later frames still add to
    envelope: Tensor  # [n_fft - hop] the same of the window
    skip: int = field(default=0)  # samples still to drop at the start


class ConvNeXtBlock(nn.Module):
    """Causal depthwise convolution, LayerNorm, pointwise MLP, scaled and added. [B, dim, T] both ways."""

    def __init__(self, dim: int, ffn_dim: int, kernel_size: int, initial_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, ffn_dim)
        self.pwconv2 = nn.Linear(ffn_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), initial_scale))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, dim, T] and the inputs before it [B, dim, kernel - 1] -> output, the next call's past."""
        seen = torch.cat([past, x], dim=2)
        h = self.norm(self.dwconv(seen).transpose(1, 2))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2), seen[..., seen.shape[-1] - past.shape[-1] :]


class Vocos(nn.Module):
    """mel [B, M, L] -> waveform [B, L * hop]; streamed with `init_state` and `stream`."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed = nn.Conv1d(c.num_mel_bins, c.dim, c.kernel_size)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(c.dim, c.ffn_dim, c.kernel_size, 1 / c.num_layers) for _ in range(c.num_layers)
        )
        self.final_norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.f0_head = nn.Linear(c.dim, c.f0_bins)
        self.apply(_initialise)
        self.head = SpectrumHead(c.dim, MelConfig(c.sample_rate, c.n_fft, c.hop_length, c.num_mel_bins))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Vocos:
        """From a whole `config.json`. Raises ConfigError when `mel_vocoder_config` is missing or wrong."""
        if "mel_vocoder_config" not in config:
            raise ConfigError("config.json: no entry 'mel_vocoder_config', which a Vocos needs")
        return cls(select(VocosConfig, config["mel_vocoder_config"], "mel_vocoder_config"))

    def config_entry(self) -> dict[str, Any]:
        """The entry `mel_vocoder_config` of `config.json`."""
        entry = asdict(self.config)
        return {"type": entry.pop("type"), **entry}

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    def init_state(self, batch: int, noise_start: int = 0) -> VocosState:
        """The state before the first chunk; noise_start: index in the noise table (varied in training)."""
        c, like = self.config, self.embed.weight
        past = c.kernel_size - 1
        single = torch.float32
        return VocosState(
            mel=like.new_zeros(batch, c.num_mel_bins, past - c.lookahead_frames),
            blocks=[like.new_zeros(batch, c.dim, past) for _ in range(c.num_layers)],
            frames=noise_start,
            cycles=like.new_zeros(batch, dtype=torch.float64),
            f0=like.new_full((batch,), 100.0, dtype=single),
            overlap=like.new_zeros(batch, c.n_fft - c.hop_length, dtype=single),
            envelope=like.new_zeros(c.n_fft - c.hop_length, dtype=single),
            skip=c.margin,
        )

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, M, L] (natural log) -> waveform [B, L * hop], float32 in [-1, 1]."""
        return self.stream(mel, self.init_state(mel.shape[0]), last=True)

    def f0(self, mel: Tensor) -> Tensor:
        """mel [B, M, L] -> F0 in Hz [B, L]; meaningless where the frame is unvoiced."""
        hidden, _ = self._hidden(mel, self.init_state(mel.shape[0]), last=True)
        return self.f0_from_logits(self.f0_head(hidden))

    def stream(self, mel: Tensor, state: VocosState, last: bool = False) -> Tensor:
        """The next mel frames [B, M, l], l >= 0 -> the samples [B, s] that are final; changes `state`.

        last: no frame follows; returns all the rest. The sum of s over a stream is that of l * hop.
        """
        hidden, seen = self._hidden(mel, state, last)
        if not hidden.shape[1]:
            return self._overlap_add(None, state, last)
        return self._synthesise(hidden, seen, self.f0_from_logits(self.f0_head(hidden)), state, last)

    def train_forward(self, mel: Tensor, f0: Tensor | None, noise_start: int) -> tuple[Tensor, Tensor]:
        """mel [B, M, L] -> waveform [B, L * hop], F0 logits [B, L, bins]; `f0` [B, L] replaces the predicted one."""
        state = self.init_state(mel.shape[0], noise_start)
        hidden, seen = self._hidden(mel, state, last=True)
        logits = self.f0_head(hidden).float()
        f0 = self.f0_from_logits(logits) if f0 is None else f0
        return self._synthesise(hidden, seen, f0, state, last=True), logits

    def f0_grid(self, like: Tensor) -> Tensor:
        """Natural log of each F0 bin's frequency, [bins]."""
        c = self.config
        return torch.linspace(math.log(c.f0_min_hz), math.log(c.f0_max_hz), c.f0_bins, device=like.device)

    @torch.no_grad()
    def f0_from_logits(self, logits: Tensor) -> Tensor:
        """[B, L, bins] -> F0 in Hz [B, L]: the mean of the bins around the maximum, finer than the grid."""
        grid = self.f0_grid(logits)
        best = logits.argmax(dim=-1, keepdim=True)
        near = (torch.arange(len(grid), device=logits.device) - best).abs() <= 3
        shares = torch.softmax(logits.float().masked_fill(~near, -torch.inf), dim=-1)
        return torch.exp(shares @ grid)

    def _hidden(self, mel: Tensor, state: VocosState, last: bool) -> tuple[Tensor, Tensor]:
        """The next mel frames -> hidden frames that are final [B, T, dim], and their mel [B, M, T]."""
        c = self.config
        x = (mel.to(self.embed.weight.dtype) - _MEL_FLOOR) / _MEL_SCALE
        x = torch.cat([state.mel, x], dim=2)
        if last:
            x = F.pad(x, (0, c.lookahead_frames))
        past = c.kernel_size - 1
        state.mel = x[..., max(0, x.shape[-1] - past) :]
        count = max(0, x.shape[-1] - past)
        centres = x[..., past - c.lookahead_frames :][..., :count] * _MEL_SCALE + _MEL_FLOOR
        if not count:
            return x.new_zeros(len(x), 0, c.dim), centres
        h = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for i, block in enumerate(self.blocks):
            h, state.blocks[i] = block(h, state.blocks[i])
        return self.final_norm(h.transpose(1, 2)), centres

    def _synthesise(self, hidden: Tensor, mel: Tensor, f0: Tensor, state: VocosState, last: bool) -> Tensor:
        """Hidden frames [B, T, dim], their mel [B, M, T] and F0 [B, T] -> finished samples [B, s]."""
        c = self.config
        with torch.no_grad():
            phase, slope = accumulate_phase(f0, state.cycles, state.f0, c.sample_rate / c.hop_length)
            window = synthesis_window(c.hop_length).to(f0.device)
            pulses = pulse_spectra(f0, phase, slope, window, c.n_fft, c.sample_rate)
            places = (state.frames + torch.arange(f0.shape[1])) % NOISE_FRAMES
            noise = noise_table(c.n_fft, c.hop_length)[places].to(f0.device)
        state.cycles, state.f0, state.frames = phase[:, -1], f0[:, -1], state.frames + f0.shape[1]
        return self._overlap_add(self.head(hidden, mel, pulses, noise), state, last)

    def _overlap_add(self, frames: Tensor | None, state: VocosState, last: bool) -> Tensor:
        """Add frames [B, T, n_fft] to the stream -> finished samples [B, s]."""
        c = self.config
        ready, envelope = state.overlap, state.envelope
        if frames is not None:
            count = frames.shape[1]
            window = F.pad(synthesis_window(c.hop_length), (c.n_fft // 2 - c.hop_length,) * 2).to(ready.device)
            kept = (0, count * c.hop_length)
            ready = F.pad(ready, kept) + _sum_shifted(frames, c.hop_length)
            envelope = F.pad(envelope, kept) + _sum_shifted(window.expand(1, count, -1), c.hop_length)[0]
        tail = c.margin if last else c.n_fft - c.hop_length
        end = ready.shape[-1] - tail
        state.overlap, state.envelope = ready[:, end:], envelope[end:]
        start = min(state.skip, end)
        state.skip -= start
        # windows add up to 1, but to a half at the ends of a stream
        return (ready[:, start:end] / envelope[start:end].clamp(min=0.5)).clamp(-1.0, 1.0)


def _sum_shifted(frames: Tensor, hop: int) -> Tensor:
    """[B, T, n] -> [B, (T - 1) * hop + n], each frame `hop` samples after the one before."""
    batch, count, length = frames.shape
    parts = frames.reshape(batch, count, length // hop, hop)
    overlaps = parts.shape[2]
    shifted = [F.pad(parts[:, :, j], (0, 0, j, overlaps - 1 - j)) for j in range(overlaps)]
    return torch.stack(shifted).sum(dim=0).reshape(batch, -1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)


def save_vocos(model: Vocos, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write `vocoder.safetensors`, rounded to `dtype`; it is read as float32 again, in which it computes."""
    tensors = {name: tensor.detach().cpu().contiguous().to(dtype) for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path)


def load_vocos(path: str | Path, config: Mapping[str, Any]) -> Vocos:
    """Read `vocoder.safetensors`, sized by the whole `config.json`.

    Raises CheckpointError naming missing, unexpected and misshapen tensors, ConfigError for a bad entry.
    """
    model = Vocos.from_config(config)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    expected = model.state_dict()
    problems = list(_differences(expected, tensors))
    if problems:
        raise CheckpointError(f"{path} does not fit mel_vocoder_config: " + "; ".join(problems))
    model.load_state_dict(tensors)
    return model.eval()


def _differences(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Iterable[str]:
    yield from (f"missing {key}" for key in expected if key not in stored)
    yield from (f"unexpected {key}" for key in stored if key not in expected)
    for key in expected:
        if key in stored and expected[key].shape != stored[key].shape:
            yield f"{key} is {tuple(stored[key].shape)}, not {tuple(expected[key].shape)}"

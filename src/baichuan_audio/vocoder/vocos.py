"""Vocos (arXiv 2306.00814), a vocoder that works at frame rate: ConvNeXt blocks, then one inverse STFT.

Where the paper's convolutions look both ways, these look back only, save for two frames in the first one. So
the vocoder streams exactly: chunks of any size give the samples that the whole mel gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import select
from ..errors import CheckpointError, ConfigError

# ln(1e-5), the floor of the natural-log mel: shifted to 0, so that zero padding means digital silence.
_MEL_FLOOR = math.log(1e-5)
_MEL_SCALE = 4.0
_MAX_LOG_MAGNITUDE = math.log(1e3)


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a Vocos; in a checkpoint's `config.json` they stand under `mel_vocoder_config`."""

    dim: int = 256
    ffn_dim: int = 768
    num_layers: int = 6
    kernel_size: int = 7
    lookahead_frames: int = 2
    n_fft: int = 1920
    hop_length: int = 480
    num_mel_bins: int = 80
    sample_rate: int = 24000
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
    """What a stream remembers between chunks. All tensors are [B, ...]."""

    mel: Tensor  # [B, M, <= kernel - 1] the last input frames, normalised
    blocks: list[Tensor]  # per block [B, dim, kernel - 1], the last inputs of its depthwise convolution
    overlap: Tensor  # [B, n_fft - hop] samples that later frames still add to
    envelope: Tensor  # [n_fft - hop] the same of the squared window
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


class ISTFTHead(nn.Module):
    """Hidden frames -> windowed waveform frames, to be overlapped and added."""

    window: Tensor

    def __init__(self, dim: int, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.out = nn.Linear(dim, n_fft + 2)
        # Speech is quiet in most bins: a start near silence spares the first hundred steps of training.
        nn.init.constant_(self.out.bias[: n_fft // 2 + 1], -2.0)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, n_fft] float32."""
        log_magnitude, phase = self.out(x).float().chunk(2, dim=-1)
        magnitude = torch.exp(log_magnitude.clamp(max=_MAX_LOG_MAGNITUDE))
        spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        return torch.fft.irfft(spectrum, n=self.n_fft, dim=-1) * self.window.float()


class Vocos(nn.Module):
    """mel [B, M, L] -> waveform [B, L * hop]; whole with a call, in chunks with `init_state` and `stream`."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed = nn.Conv1d(c.num_mel_bins, c.dim, c.kernel_size)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(c.dim, c.ffn_dim, c.kernel_size, 1 / c.num_layers) for _ in range(c.num_layers)
        )
        self.final_norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.head = ISTFTHead(c.dim, c.n_fft)
        self.apply(_initialise)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Vocos:
        """From a whole `config.json`. Raises ConfigError when `mel_vocoder_config` is missing or wrong."""
        if "mel_vocoder_config" not in config:
            raise ConfigError("config.json: no entry 'mel_vocoder_config', which a Vocos needs")
        return cls(select(VocosConfig, config["mel_vocoder_config"], "mel_vocoder_config"))

    def config_entry(self) -> dict[str, Any]:
        """What stands under `mel_vocoder_config` in `config.json`."""
        entry = asdict(self.config)
        return {"type": entry.pop("type"), **entry}

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    def init_state(self, batch: int) -> VocosState:
        """The state before the first chunk."""
        c, like = self.config, self.embed.weight
        past = c.kernel_size - 1
        return VocosState(
            mel=like.new_zeros(batch, c.num_mel_bins, past - c.lookahead_frames),
            blocks=[like.new_zeros(batch, c.dim, past) for _ in range(c.num_layers)],
            overlap=like.new_zeros(batch, c.n_fft - c.hop_length, dtype=torch.float32),
            envelope=like.new_zeros(c.n_fft - c.hop_length, dtype=torch.float32),
            skip=c.margin,
        )

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, M, L] (natural log) -> waveform [B, L * hop], float32 in [-1, 1]."""
        return self.stream(mel, self.init_state(mel.shape[0]), last=True)

    def stream(self, mel: Tensor, state: VocosState, last: bool = False) -> Tensor:
        """The next mel frames [B, M, l], l >= 0 -> the samples [B, s] that are now certain; changes `state`.

        `last` says that no frame follows and gives all that is left. Summed over a stream s is l * hop.
        """
        x = (mel.to(self.embed.weight.dtype) - _MEL_FLOOR) / _MEL_SCALE
        x = torch.cat([state.mel, x], dim=2)
        if last:
            x = F.pad(x, (0, self.config.lookahead_frames))
        past = self.config.kernel_size - 1
        state.mel = x[..., max(0, x.shape[-1] - past) :]
        if x.shape[-1] <= past:
            return self._overlap_add(None, state, last)
        h = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for i, block in enumerate(self.blocks):
            h, state.blocks[i] = block(h, state.blocks[i])
        return self._overlap_add(self.head(self.final_norm(h.transpose(1, 2))), state, last)

    def _overlap_add(self, frames: Tensor | None, state: VocosState, last: bool) -> Tensor:
        """Add windowed frames [B, T, n_fft] to the stream -> finished samples [B, s]."""
        c = self.config
        ready, envelope = state.overlap, state.envelope
        if frames is not None:
            count = frames.shape[1]
            window = self.head.window.float().square().expand(1, count, -1)
            kept = (0, count * c.hop_length)
            ready = F.pad(ready, kept) + _sum_shifted(frames, c.hop_length)
            envelope = F.pad(envelope, kept) + _sum_shifted(window, c.hop_length)[0]
        tail = c.margin if last else c.n_fft - c.hop_length
        end = ready.shape[-1] - tail
        state.overlap, state.envelope = ready[:, end:], envelope[end:]
        start = min(state.skip, end)
        state.skip -= start
        # Silence stands in for the few samples that no window reaches.
        return (ready[:, start:end] / envelope[start:end].clamp(min=1e-6)).clamp(-1.0, 1.0)


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


def save_vocos(model: Vocos, path: str | Path) -> None:
    """Write `vocoder.safetensors`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, path)


def load_vocos(path: str | Path, config: Mapping[str, Any]) -> Vocos:
    """Read `vocoder.safetensors`, sized by the whole `config.json`.

    Raises CheckpointError naming missing, unexpected and misshapen tensors, ConfigError for a bad entry.
    """
    model = Vocos.from_config(config)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    own = model.state_dict()
    problems = list(_differences(own, tensors))
    if problems:
        raise CheckpointError(f"{path} does not fit mel_vocoder_config: " + "; ".join(problems))
    model.load_state_dict(tensors)
    return model.eval()


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterable[str]:
    yield from (f"missing {key}" for key in own if key not in given)
    yield from (f"unexpected {key}" for key in given if key not in own)
    for key in own:
        if key in given and own[key].shape != given[key].shape:
            yield f"{key} is {tuple(given[key].shape)}, not {tuple(own[key].shape)}"

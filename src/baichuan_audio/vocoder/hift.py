"""HiFT, the released vocoder: mel at 50 Hz -> 24 kHz waveform (HiFi-GAN body, harmonic source, iSTFT head)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..errors import CheckpointError
from . import hift_stream
from .hift_stream import HiftState

_NEW_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@dataclass(frozen=True)
class HiftConfig:
    """Sizes of a HiFT vocoder; `from_tensors` infers them from a checkpoint, because no file holds them."""

    num_mel_bins: int = 80
    base_channels: int = 512
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    residual_kernels: tuple[int, ...] = (3, 7, 11)
    source_kernels: tuple[int, ...] = (7, 7, 11)
    num_dilations: int = 3
    num_harmonics: int = 9  # the fundamental included
    f0_channels: int = 512
    n_fft: int = 16
    sample_rate: int = 24000

    # These do not follow from the tensors, and are the same in every published HiFT.
    source_amplitude = 0.1
    noise_std = 0.003
    voiced_above_hz = 10.0
    clamp = 0.99

    @property
    def stft_hop(self) -> int:
        return self.n_fft // 4

    @property
    def hop_length(self) -> int:
        """Samples per mel frame."""
        return math.prod(self.upsample_rates) * self.stft_hop

    @property
    def source_strides(self) -> tuple[int, ...]:
        """Stride of each `source_downs`: the product of the later levels' rates."""
        return tuple(math.prod(self.upsample_rates[i + 1 :]) for i in range(len(self.upsample_rates)))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], hop_length: int = 480, sample_rate: int = 24000) -> HiftConfig:
        """Infer the sizes from the tensors (released key style). The first rate follows from `hop_length`.

        Raises CheckpointError when the tensors do not describe a HiFT of that hop length.
        """

        def shape(key: str) -> torch.Size:
            if key not in tensors:
                raise CheckpointError(f"not a HiFT vocoder: tensor {key!r} is missing")
            return tensors[key].shape

        def count(pattern: str) -> int:
            matches = (re.fullmatch(pattern + r"\..*", key) for key in tensors)
            return 1 + max((int(m.group(1)) for m in matches if m), default=-1)

        levels = count(r"ups\.(\d+)")
        if not levels:
            raise CheckpointError("not a HiFT vocoder: no tensor under 'ups'")
        blocks = count(r"resblocks\.(\d+)") // levels
        n_fft = shape("conv_post.weight_v")[0] - 2
        # A source convolution's kernel is twice its stride, save for stride 1, where it is 1.
        kernels = [shape(f"source_downs.{i}.weight")[-1] for i in range(levels)]
        strides = [max(1, kernel // 2) for kernel in kernels]
        total = hop_length // (n_fft // 4)
        steps = [total, *strides]
        if hop_length % (n_fft // 4) or strides[-1] != 1 or any(a % b for a, b in pairwise(steps)):
            raise CheckpointError(
                f"HiFT tensors do not fit a hop of {hop_length} samples: source strides {strides}, n_fft {n_fft}"
            )
        return cls(
            num_mel_bins=shape("conv_pre.weight_v")[1],
            base_channels=shape("conv_pre.weight_v")[0],
            upsample_rates=tuple(a // b for a, b in pairwise(steps)),
            upsample_kernels=tuple(shape(f"ups.{i}.weight_v")[-1] for i in range(levels)),
            residual_kernels=tuple(shape(f"resblocks.{j}.convs1.0.weight_v")[-1] for j in range(blocks)),
            source_kernels=tuple(shape(f"source_resblocks.{i}.convs1.0.weight_v")[-1] for i in range(levels)),
            num_dilations=count(r"resblocks\.0\.convs1\.(\d+)"),
            num_harmonics=shape("m_source.l_linear.weight")[1],
            f0_channels=shape("f0_predictor.condnet.0.weight_v")[0],
            n_fft=n_fft,
            sample_rate=sample_rate,
        )


class Snake(nn.Module):
    """x + sin²(αx)/α per channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class ResidualBlock(nn.Module):
    """Per dilation d: x += conv(snake(conv_d(snake(x)))), lengths kept. [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int, num_dilations: int) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel - 1) * dilation // 2
            return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))

        self.convs1 = nn.ModuleList(conv(2 * i + 1) for i in range(num_dilations))
        self.convs2 = nn.ModuleList(conv(1) for _ in range(num_dilations))
        self.activations1 = nn.ModuleList(Snake(channels) for _ in range(num_dilations))
        self.activations2 = nn.ModuleList(Snake(channels) for _ in range(num_dilations))

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class F0Predictor(nn.Module):
    """mel [B, M, L] -> F0 in Hz [B, L]; near 0 where unvoiced."""

    def __init__(self, num_mel_bins: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [weight_norm(nn.Conv1d(channels if i else num_mel_bins, channels, 3, padding=1)), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        return torch.abs(self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1))


class HarmonicSource(nn.Module):
    """F0 in Hz per sample [B, S] -> excitation [B, 1, S]: harmonics and noise, mixed by one learned line."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.l_linear = nn.Linear(config.num_harmonics, 1)

    def forward(self, f0: Tensor, quiet: bool = False, generator: torch.Generator | None = None) -> Tensor:
        cycles = torch.cumsum(self.steps(f0), dim=1)
        if quiet:
            return self.mix(f0, cycles)
        start = self.start_phases(f0.shape[0], generator).to(f0)
        return self.mix(f0, cycles, start, torch.randn(cycles.shape, generator=generator).to(f0))

    def steps(self, f0: Tensor) -> Tensor:
        """Phase increment of each harmonic in each sample, in cycles: F0 [B, S] -> [B, S, harmonics]."""
        harmonic = torch.arange(1, self.config.num_harmonics + 1, device=f0.device, dtype=f0.dtype)
        return f0[..., None] * harmonic / self.config.sample_rate

    def start_phases(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Random phases in (-pi, pi) at the start, 0 for the fundamental: [B, 1, harmonics]."""
        start = (2 * torch.rand(batch, 1, self.config.num_harmonics, generator=generator) - 1) * math.pi
        start[..., 0] = 0.0
        return start

    def mix(self, f0: Tensor, cycles: Tensor, start: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """F0 [B, S], cycles since the start and standard normal noise [B, S, harmonics] -> excitation [B, 1, S]."""
        c = self.config
        phase = 2 * math.pi * (cycles % 1.0)
        if start is not None:
            phase = phase + start
        voiced = (f0 > c.voiced_above_hz).to(f0.dtype)[..., None]
        harmonics = c.source_amplitude * torch.sin(phase) * voiced
        if noise is not None:
            harmonics = harmonics + (c.noise_std * voiced + c.source_amplitude / 3 * (1 - voiced)) * noise
        return torch.tanh(self.l_linear(harmonics.to(self.l_linear.weight.dtype))).transpose(1, 2)


class Hift(nn.Module):
    """The released vocoder. Call it with a mel for a waveform, or run its three stages one by one."""

    window: Tensor

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.base_channels >> i for i in range(len(c.upsample_rates) + 1)]
        spectrum = c.n_fft + 2
        self.m_source = HarmonicSource(c)
        self.conv_pre = weight_norm(nn.Conv1d(c.num_mel_bins, widths[0], 7, padding=3))
        levels = list(zip(c.upsample_rates, c.upsample_kernels, c.source_strides, widths, widths[1:], strict=False))
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2))
            for rate, kernel, _, wide, narrow in levels
        )
        self.source_downs = nn.ModuleList(
            nn.Conv1d(spectrum, narrow, 1)
            if stride == 1
            else nn.Conv1d(spectrum, narrow, 2 * stride, stride, padding=stride // 2)
            for _, _, stride, _, narrow in levels
        )
        self.source_resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, c.num_dilations)
            for width, kernel in zip(widths[1:], c.source_kernels, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, c.num_dilations) for width in widths[1:] for kernel in c.residual_kernels
        )
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], spectrum, 7, padding=3))
        self.f0_predictor = F0Predictor(c.num_mel_bins, c.f0_channels)
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    def f0(self, mel: Tensor) -> Tensor:
        """mel [B, M, L] (natural log) -> F0 in Hz [B, L]."""
        f0: Tensor = self.f0_predictor(mel)
        return f0

    def source(self, f0: Tensor, quiet: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """F0 [B, L] in Hz -> excitation [B, 1, L * hop]. `quiet`: no noise, and all phases start at zero."""
        per_sample = f0.float().repeat_interleave(self.hop_length, dim=1)
        source: Tensor = self.m_source(per_sample, quiet, generator)
        return source

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel [B, M, L], excitation [B, 1, S] with S = L * hop -> waveform [B, S] float32 in [-0.99, 0.99]."""
        spectrum = self._stft(source.squeeze(1))
        x = self.conv_pre(mel)
        per_level = len(self.config.residual_kernels)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            if i + 1 == len(self.ups):
                x = F.pad(x, (1, 0), mode="reflect")  # a centred STFT has one frame more than S / hop
            x = x + self.source_resblocks[i](self.source_downs[i](spectrum))
            blocks = [self.resblocks[i * per_level + j] for j in range(per_level)]
            x = torch.stack([block(x) for block in blocks]).mean(dim=0)
        x = self.conv_post(F.leaky_relu(x, 0.01))
        return self._inverse_stft(x)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, M, L] -> waveform [B, L * hop]; start phases and noise are always the same, in each row."""
        rows = [
            self.source(f0, generator=torch.Generator().manual_seed(hift_stream.NOISE_SEED))
            for f0 in self.f0(mel).split(1)
        ]
        return self.decode(mel, torch.cat(rows))

    def init_state(self, batch: int = 1) -> HiftState:
        """The state before the first frame of a stream; a stream has one row."""
        return hift_stream.init_state(self, batch)

    def stream(self, mel: Tensor, state: HiftState, last: bool = False) -> Tensor:
        """The next mel frames [1, M, l], l >= 0 -> the next samples [1, s]; changes `state`.

        They lag by `hift_stream.LOOKAHEAD_FRAMES`; last: no frame follows; returns all the rest.
        """
        return hift_stream.stream(self, mel, state, last)

    def _stft(self, waveform: Tensor) -> Tensor:
        """[B, S] -> [B, n_fft + 2, S / hop + 1]: real parts, then imaginary parts."""
        c = self.config
        window = self.window.to(torch.float32)
        spectrum = torch.stft(waveform.float(), c.n_fft, c.stft_hop, window=window, return_complex=True)
        return torch.cat([spectrum.real, spectrum.imag], dim=1).to(waveform.dtype)

    def _inverse_stft(self, x: Tensor) -> Tensor:
        """[B, n_fft + 2, T]: log magnitude, then the sine's argument whose value is the phase -> [B, S]."""
        c = self.config
        log_magnitude, angle = x.float().chunk(2, dim=1)
        magnitude = torch.exp(log_magnitude).clamp(max=100.0)
        spectrum = torch.polar(magnitude, torch.sin(angle))
        window = self.window.to(torch.float32)
        waveform = torch.istft(spectrum, c.n_fft, c.stft_hop, window=window)
        return waveform.clamp(-c.clamp, c.clamp)

    def released_state_dict(self) -> dict[str, Tensor]:
        """The parameters under the released names (`weight_g`, `weight_v`)."""
        return released_names(self.state_dict())

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], hop_length: int = 480, sample_rate: int = 24000) -> Hift:
        """A vocoder with these weights, in either weight-norm key style, sized by the tensors themselves.

        Raises CheckpointError naming missing, unexpected and misshapen tensors.
        """
        released = released_names(tensors)
        model = cls(HiftConfig.from_tensors(released, hop_length, sample_rate))
        expected = model.released_state_dict()
        problems = [f"missing {key}" for key in expected if key not in released]
        problems += [f"unexpected {key}" for key in released if key not in expected]
        problems += [
            f"{key} is {tuple(released[key].shape)}, not {tuple(expected[key].shape)}"
            for key in expected
            if key in released and released[key].shape != expected[key].shape
        ]
        if problems:
            raise CheckpointError("HiFT weights do not fit: " + "; ".join(problems))
        model.load_state_dict(released)  # torch's weight norm accepts the released names
        return model.eval()


def released_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with `parametrizations.weight.original0/1` renamed to `weight_g` / `weight_v`."""
    renamed = {}
    for key, tensor in tensors.items():
        for new, old in _NEW_NORM.items():
            key = key.replace(new, old)
        renamed[key.removeprefix("generator.")] = tensor
    return renamed


def load_hift(path: str | Path, hop_length: int = 480, sample_rate: int = 24000) -> Hift:
    """Read `hift.pt` (weights only: code in the file is not run). Raises CheckpointError."""
    try:
        tensors: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no vocoder file at {path}") from None
    except Exception as error:  # any error of the reader means that the file cannot be used
        raise CheckpointError(f"{path}: not a PyTorch file of weights, or a damaged one; copy it again.") from error
    named = isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
    if not named or not all(isinstance(t, Tensor) and t.layout == torch.strided for t in tensors.values()):
        raise CheckpointError(f"{path} does not hold a plain dictionary of tensors")
    try:
        return Hift.from_state_dict(tensors, hop_length, sample_rate)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: no HiFT vocoder can be built from its tensors ({error}).") from error


def save_hift(model: Hift, path: str | Path) -> None:
    """Write `hift.pt` with the released names."""
    torch.save({key: tensor.detach().cpu().clone() for key, tensor in model.released_state_dict().items()}, path)

"""Streamed HiFT: the source is exact, the network runs on a window of frames around each piece.

HiFT's convolutions need as many future frames as past ones, about 14 frames (0.28 s) of mel at the released sizes, and
the source 5 more. A stream does not wait for all of them: a piece is computed on a window that begins `reach` frames
before it, all that HiFT uses, and ends `LOOKAHEAD_FRAMES` after it; adjacent pieces are joined by a short cross-fade.
docs/streaming.md has the measured difference. F0 and the phase of the source continue from frames that are final, so
the pitch cannot drift, and the noise equals that of the full synthesis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .hift import Hift, HiftConfig

NOISE_SEED = 0
LOOKAHEAD_FRAMES = 8
F0_FRAMES = 5
"""F0 of a frame depends on so many frames before and after it: five convolutions of three frames."""


@dataclass
class HiftState:
    """State of a stream. Frames are counted from its first."""

    lookahead: int  # frames after a piece in its window
    context: int  # frames before it
    generator: torch.Generator
    start: Tensor  # [1, 1, harmonics] phases
    cycles: Tensor  # [1, 1, harmonics] float64, at the end of the final source
    mel: Tensor  # [1, M, w] the window
    source: Tensor  # [1, 1, n] final source from the window's first frame on
    noise: Tensor  # [1, n, harmonics] behind the final source
    tail: Tensor  # [1, n] samples after the last piece, to be faded into the next one
    first: int = 0  # frame at which the window begins
    returned: int = 0  # frames returned
    final: int = 0  # frames of final source


def reach(config: HiftConfig) -> int:
    """Frames before or behind a frame that can change its samples, given the source."""
    c = config
    dilated = sum(2 * i + 1 for i in range(c.num_dilations)) + c.num_dilations
    samples, rate = 3.0, 1
    from_source = 0.0
    for level, (up, kernel) in enumerate(zip(c.upsample_rates, c.upsample_kernels, strict=True)):
        samples += (kernel - up) // 2 / (rate * up) + 1 / rate
        rate *= up
        stride, source_kernel = c.source_strides[level], c.source_kernels[level]
        entering = (2 * stride + c.n_fft) / c.hop_length + (source_kernel - 1) / 2 * dilated / rate
        from_source = max(samples, from_source, entering)
        samples = from_source + (max(c.residual_kernels) - 1) / 2 * dilated / rate
    return int(samples + 4 / rate + c.n_fft / c.hop_length) + 1


def init_state(vocoder: Hift, batch: int = 1, lookahead: int | None = None) -> HiftState:
    """The state before the first frame. `lookahead` of `reach` + `F0_FRAMES` frames makes the stream exact."""
    if batch != 1:
        raise ValueError("a HiFT stream has one row: the noise would depend on the pieces.")
    c = vocoder.config
    like = vocoder.m_source.l_linear.weight
    generator = torch.Generator().manual_seed(NOISE_SEED)
    start = vocoder.m_source.start_phases(1, generator).to(like.device)
    return HiftState(
        lookahead=LOOKAHEAD_FRAMES if lookahead is None else lookahead,
        context=reach(c),
        generator=generator,
        start=start,
        cycles=torch.zeros(1, 1, c.num_harmonics, dtype=torch.float64, device=like.device),
        mel=like.new_zeros(1, c.num_mel_bins, 0),
        source=like.new_zeros(1, 1, 0),
        noise=start.new_zeros(1, 0, c.num_harmonics),
        tail=start.new_zeros(1, 0),
    )


def stream(vocoder: Hift, mel: Tensor, state: HiftState, last: bool) -> Tensor:
    """See `Hift.stream`."""
    hop = vocoder.hop_length
    state.mel = torch.cat([state.mel, mel.to(state.mel.dtype)], dim=2)
    # Several calls give the numbers of one call where a frame needs a multiple of 16 numbers (4320 as released).
    drawn = torch.randn(1, mel.shape[2] * hop, vocoder.config.num_harmonics, generator=state.generator)
    state.noise = torch.cat([state.noise, drawn.to(state.noise)], dim=1)
    seen = state.first + state.mel.shape[2]
    until = seen if last else seen - state.lookahead
    if until <= state.returned:
        return state.tail[:, :0]
    waveform = vocoder.decode(state.mel, _source(vocoder, state, seen, last)).float()
    begin, end = ((frame - state.first) * hop for frame in (state.returned, until))
    piece = waveform[:, begin:end]
    faded = state.tail.shape[1]
    if faded:
        rise = torch.linspace(0, 1, faded, device=piece.device)
        piece = torch.cat([state.tail * (1 - rise) + piece[:, :faded] * rise, piece[:, faded:]], dim=1)
    state.tail = waveform[:, end : end + hop]
    state.returned = until
    _drop_old_frames(state, hop)
    return piece


def _source(vocoder: Hift, state: HiftState, seen: int, last: bool) -> Tensor:
    """The source of the whole window; frames whose F0 can no longer change become final, with their phase."""
    hop = vocoder.hop_length
    before = min(F0_FRAMES, state.final - state.first)
    f0 = vocoder.f0(state.mel[..., state.final - before - state.first :])[:, before:]
    per_sample = f0.float().repeat_interleave(hop, dim=1)
    cycles = state.cycles + vocoder.m_source.steps(per_sample).double().cumsum(dim=1)
    new = vocoder.m_source.mix(per_sample, cycles.float(), state.start, state.noise)
    source = torch.cat([state.source, new], dim=2)
    finalised = (seen if last else max(state.final, seen - F0_FRAMES)) - state.final
    if finalised:
        state.cycles = cycles[:, finalised * hop - 1 : finalised * hop]
        state.noise = state.noise[:, finalised * hop :]
        state.final += finalised
        state.source = source[..., : (state.final - state.first) * hop]
    return source


def _drop_old_frames(state: HiftState, hop: int) -> None:
    """Drop frames that no later window needs. (F0 of the first frame that is not final needs fewer.)"""
    drop = max(0, min(state.returned - state.context, state.final - F0_FRAMES) - state.first)
    state.mel, state.source = state.mel[..., drop:], state.source[..., drop * hop :]
    state.first += drop

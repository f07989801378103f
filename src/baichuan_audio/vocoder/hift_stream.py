"""HiFT in pieces: the source goes on exactly, the network sees a window of frames around what it gives out.

HiFT's convolutions look as far ahead as back, about 14 frames (0.28 s) of mel at the released sizes, and the source
5 frames more. A stream does not wait for all of them: a piece is computed on a window that reaches from
`CONTEXT_FRAMES` before it, which is all that HiFT sees, to `LOOKAHEAD_FRAMES` behind it, and neighbouring pieces are
joined by a short cross-fade. What the missing frames change is measured in docs/streaming.md. F0 and the source's
phase are carried on from frames that never change, so the pitch cannot drift, and the noise is that of the whole.
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
"""F0 of a frame depends on so many before and behind it: five convolutions of three frames."""


@dataclass
class HiftState:
    """What a stream remembers between pieces. Frames count from the stream's first."""

    lookahead: int  # frames behind a piece that its window holds
    context: int  # frames before it
    generator: torch.Generator
    start: Tensor  # [1, 1, harmonics] phases
    cycles: Tensor  # [1, 1, harmonics] float64, at the end of the settled source
    mel: Tensor  # [1, M, w] the window
    source: Tensor  # [1, 1, n] settled source from the window's first frame on
    noise: Tensor  # [1, n, harmonics] behind the settled source
    held: Tensor  # [1, n] samples behind what was given out, to be faded into the next piece
    first: int = 0  # frame at which the window begins
    given: int = 0  # frames given out
    settled: int = 0  # frames of settled source


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
        raise ValueError("a HiFT stream has one row: the order in which noise is drawn would depend on the pieces.")
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
        held=start.new_zeros(1, 0),
    )


def stream(vocoder: Hift, mel: Tensor, state: HiftState, last: bool) -> Tensor:
    """See `Hift.stream`."""
    hop = vocoder.hop_length
    state.mel = torch.cat([state.mel, mel.to(state.mel.dtype)], dim=2)
    # Drawn in portions it is what one call gives where a frame takes a multiple of 16 numbers (4320 as released).
    drawn = torch.randn(1, mel.shape[2] * hop, vocoder.config.num_harmonics, generator=state.generator)
    state.noise = torch.cat([state.noise, drawn.to(state.noise)], dim=1)
    seen = state.first + state.mel.shape[2]
    until = seen if last else seen - state.lookahead
    if until <= state.given:
        return state.held[:, :0]
    waveform = vocoder.decode(state.mel, _source(vocoder, state, seen, last)).float()
    begin, end = ((frame - state.first) * hop for frame in (state.given, until))
    piece = waveform[:, begin:end]
    faded = state.held.shape[1]
    if faded:
        rise = torch.linspace(0, 1, faded, device=piece.device)
        piece = torch.cat([state.held * (1 - rise) + piece[:, :faded] * rise, piece[:, faded:]], dim=1)
    state.held = waveform[:, end : end + hop]
    state.given = until
    _forget(state, hop)
    return piece


def _source(vocoder: Hift, state: HiftState, seen: int, last: bool) -> Tensor:
    """The source of the whole window; frames whose F0 can no longer change are settled, with their phase."""
    hop = vocoder.hop_length
    before = min(F0_FRAMES, state.settled - state.first)
    f0 = vocoder.f0(state.mel[..., state.settled - before - state.first :])[:, before:]
    per_sample = f0.float().repeat_interleave(hop, dim=1)
    cycles = state.cycles + vocoder.m_source.steps(per_sample).double().cumsum(dim=1)
    new = vocoder.m_source.mix(per_sample, cycles.float(), state.start, state.noise)
    source = torch.cat([state.source, new], dim=2)
    settling = (seen if last else max(state.settled, seen - F0_FRAMES)) - state.settled
    if settling:
        state.cycles = cycles[:, settling * hop - 1 : settling * hop]
        state.noise = state.noise[:, settling * hop :]
        state.settled += settling
        state.source = source[..., : (state.settled - state.first) * hop]
    return source


def _forget(state: HiftState, hop: int) -> None:
    """Drop what no later window holds. (F0 of the first unsettled frame needs less than that.)"""
    drop = max(0, min(state.given - state.context, state.settled - F0_FRAMES) - state.first)
    state.mel, state.source = state.mel[..., drop:], state.source[..., drop * hop :]
    state.first += drop

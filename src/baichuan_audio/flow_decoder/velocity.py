"""The velocity network of the flow decoder: a one-level Matcha-TTS U-Net, causal in chunks.

Everything runs on [B, L, C] (channels last), so that each convolution is one matrix product of the
frame and its predecessors. Parameter names and shapes are those of the released checkpoint.

Sources: Matcha-TTS (arXiv 2309.03199), CosyVoice 2 (arXiv 2412.10117).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_FRAMES = 100
"""Frames of one attention chunk (2 s at 50 Hz); a constant of the released weights, not in config.json."""

VelocityState: TypeAlias = dict[nn.Module, Tensor]
"""State of each causal convolution (its last inputs) and attention (its keys and values).

Tensors are replaced, never written to, so a shallow copy of the dictionary is a snapshot.
"""


def chunk_causal_mask(
    num_frames: int, lengths: Tensor | None, device: torch.device, chunk_frames: int = CHUNK_FRAMES
) -> Tensor | None:
    """The attention mask: a frame attends to its own chunk and all earlier ones, not to padding.

    Args:
        num_frames: L.
        lengths: valid frames of each row [B], or None when every row is full.
        device: of the mask.
        chunk_frames: frames of one attention chunk.

    Returns:
        True where attention is allowed, [1 or B, 1, L, L]; None when all is.
    """
    if lengths is None and num_frames <= chunk_frames:
        return None
    position = torch.arange(num_frames, device=device)
    chunk = position // chunk_frames
    mask = (chunk[:, None] >= chunk[None, :])[None, None]
    if lengths is not None:
        mask = mask & (position < lengths.to(device)[:, None])[:, None, None, :]
    return mask


class CausalConv(nn.Conv1d):
    """A convolution over [B, L, C] whose output at frame i reads frames i - kernel + 1 .. i."""

    def forward(self, x: Tensor, state: VelocityState | None = None) -> Tensor:
        past = self.kernel_size[0] - 1
        if past == 0:
            return F.linear(x, self.weight[:, :, 0], self.bias)
        if state is not None and self in state:
            padded = torch.cat([state[self], x], dim=1)
        else:
            padded = F.pad(x, (0, 0, past, 0))
        if state is not None:
            state[self] = padded[:, -past:]
            # A chunk is short: transposing its frames costs less than transposing the weights.
            return F.linear(padded.unfold(1, past + 1, 1).flatten(2), self.weight.flatten(1), self.bias)
        windows = torch.cat([padded[:, i : i + x.shape[1]] for i in range(past + 1)], dim=-1)
        return F.linear(windows, self.weight.transpose(1, 2).flatten(1), self.bias)


class CausalBlock(nn.Module):
    """Causal convolution k3, LayerNorm over channels, Mish."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The released names count two parameterless transpositions around the norm.
        self.block = nn.ModuleDict({"0": CausalConv(in_channels, out_channels, 3), "2": nn.LayerNorm(out_channels)})

    def forward(self, x: Tensor, state: VelocityState | None = None) -> Tensor:
        return F.mish(self.block["2"](self.block["0"](x, state)))


class ResidualBlock(nn.Module):
    """Two causal blocks with the time embedding added between them, and a 1x1 shortcut."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_channels, out_channels))
        self.block1 = CausalBlock(in_channels, out_channels)
        self.block2 = CausalBlock(out_channels, out_channels)
        self.res_conv = CausalConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor, state: VelocityState | None = None) -> Tensor:
        hidden = self.block1(x, state) + self.mlp(time)[:, None]
        return self.block2(hidden, state) + self.res_conv(x)


class ChunkAttention(nn.Module):
    """Multi-head attention without biases on the inputs; the inner width may differ from the model's."""

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        inner = num_heads * head_dim
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor, mask: Tensor | None, state: VelocityState | None = None) -> Tensor:
        q, k, v = (self._heads(projection(x)) for projection in (self.to_q, self.to_k, self.to_v))
        if state is not None:
            keys_values = torch.stack([k, v])
            if self in state:
                keys_values = torch.cat([state[self], keys_values], dim=3)
            state[self] = keys_values
            k, v = keys_values.unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, self.to_out[0](out.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class GeluProjection(nn.Module):
    """The feed-forward's first half, GELU(proj(x)) with the exact (erf) GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """GELU feed-forward, four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Released names: net.0 and net.2 (net.1 is a dropout, which holds nothing).
        self.net = nn.ModuleDict({"0": GeluProjection(channels, 4 * channels), "2": nn.Linear(4 * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net["2"](self.net["0"](x)))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, LayerNorm both."""

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = ChunkAttention(channels, num_heads, head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, mask: Tensor | None, state: VelocityState | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask, state)
        return x + self.ff(self.norm3(x))


class TimeEmbedding(nn.Module):
    """Sinusoids of the flow time, then linear - SiLU - linear."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.linear_1 = nn.Linear(in_channels, out_channels)
        self.linear_2 = nn.Linear(out_channels, out_channels)

    def forward(self, t: Tensor) -> Tensor:
        """Flow times t [B] in [0, 1] -> embedding [B, out_channels]."""
        half = self.in_channels // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / (half - 1)))
        angles = 1000.0 * t.float()[:, None] * rates
        sinusoids = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.linear_1.weight.dtype)
        return cast(Tensor, self.linear_2(F.silu(self.linear_1(sinusoids))))


class Velocity(nn.Module):
    """v(x, mu, t): the velocity of x on its path from noise to the mel conditioned by mu.

    Args:
        in_channels: channels of [x; mu], twice the mel bins.
        out_channels: mel bins.
        channels: width of the network.
        num_heads, head_dim: attention heads; their product need not be `channels`.
        n_blocks: Transformer blocks in each stage.
        num_mid_blocks: stages between the first and the last.
        chunk_frames: frames of one attention chunk.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: int,
        num_heads: int,
        head_dim: int,
        n_blocks: int,
        num_mid_blocks: int,
        chunk_frames: int = CHUNK_FRAMES,
    ) -> None:
        super().__init__()
        self.chunk_frames = chunk_frames
        time_channels = 4 * channels

        def stage(width: int, convolution: bool) -> nn.ModuleList:
            blocks = [TransformerBlock(channels, num_heads, head_dim) for _ in range(n_blocks)]
            parts: list[nn.Module] = [ResidualBlock(width, channels, time_channels), nn.ModuleList(blocks)]
            if convolution:
                parts.append(CausalConv(channels, channels, 3))
            return nn.ModuleList(parts)

        self.time_mlp = TimeEmbedding(in_channels, time_channels)
        self.down_blocks = nn.ModuleList([stage(in_channels, convolution=True)])
        self.mid_blocks = nn.ModuleList([stage(channels, convolution=False) for _ in range(num_mid_blocks)])
        self.up_blocks = nn.ModuleList([stage(2 * channels, convolution=True)])
        self.final_block = CausalBlock(channels, channels)
        self.final_proj = CausalConv(channels, out_channels, 1)

    def forward(
        self,
        x: Tensor,
        mu: Tensor,
        t: Tensor,
        lengths: Tensor | None = None,
        state: VelocityState | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Velocity at flow time t.

        Args:
            x: noisy mel [B, L, M].
            mu: condition [B, L, M].
            t: flow times [B] in [0, 1], or one [1] for all rows.
            lengths: valid frames of each row [B]; later frames are not attended to. None: all.
            state: of the earlier chunks, for streaming: x is then the next chunk of at most
                `chunk_frames` frames, and a shorter chunk is the last. Updated in place.
            mask: with a state, [B, 1, 1, cached + L] over the earlier chunks and this one, in the network's dtype,
                added to the attention scores (0 or -inf). None: all visible.

        Returns:
            velocity [B, L, M].
        """
        num_frames = x.shape[1]
        if state is not None and (num_frames > self.chunk_frames or lengths is not None):
            raise ValueError(f"with a state, feed one full-length chunk of at most {self.chunk_frames} frames")
        if state is None:  # with a state, all cached frames are before this chunk, and attention within a chunk is full
            mask = chunk_causal_mask(num_frames, lengths, x.device, self.chunk_frames)
        time = self.time_mlp(t)
        x = torch.cat([x, mu], dim=-1)

        down = cast(Sequence[nn.Module], self.down_blocks[0])
        skip = self._stage(down, x, time, mask, state)
        x = down[2](skip, state)
        for mid in self.mid_blocks:
            x = self._stage(cast(Sequence[nn.Module], mid), x, time, mask, state)
        up = cast(Sequence[nn.Module], self.up_blocks[0])
        x = self._stage(up, torch.cat([x, skip], dim=-1), time, mask, state)
        x = up[2](x, state)
        return cast(Tensor, self.final_proj(self.final_block(x, state)))

    @staticmethod
    def _stage(
        stage: Sequence[nn.Module], x: Tensor, time: Tensor, mask: Tensor | None, state: VelocityState | None
    ) -> Tensor:
        x = stage[0](x, time, state)
        for block in cast(nn.ModuleList, stage[1]):
            x = block(x, mask, state)
        return x

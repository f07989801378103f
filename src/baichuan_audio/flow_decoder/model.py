"""The flow decoder: decoder hidden states [L, D] at 50 Hz -> natural-log mel [M, L] for the vocoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config import select
from ..errors import ConfigError
from ..layers.lengths import masked_mean
from .flow import CfmParams, euler, flow_matching_loss, guided_velocity, solver_times
from .prenet import Prenet
from .velocity import CHUNK_FRAMES, Velocity, VelocityState


@dataclass(frozen=True)
class FlowConfig:
    """`flow_matching_config` of config.json; widths in channels, times in solver steps."""

    MAY_BE_ZERO: ClassVar = ("diffusion_steps", "spk_emb_dim", "n_blocks", "num_mid_blocks")
    prenet_in_dim: int
    prenet_d_model: int
    prenet_attention_heads: int
    prenet_ffn_dim: int
    prenet_nlayers: int
    prenet_out_dim: int
    channels: tuple[int, ...]
    n_blocks: int
    num_mid_blocks: int
    num_heads: int
    attention_head_dim: int
    in_channels: int = 80
    attention_chunk_frames: int = CHUNK_FRAMES
    """100 in the released weights, whose config.json has no such entry; smaller: shorter time to first audio."""
    diffusion_steps: int = 10
    """Solver steps. 0 uses the prenet's mel directly: smoother, far cheaper, and for a small model more
    intelligible (dev/LOG.md has the measurements)."""
    prenet_max_source_positions: int = 5000
    prenet_target_mel_length_scale_ratio: float = 1.0
    spk_emb_dim: int = 0
    sampling_rate: int = 24000
    hop_length: int = 480
    cfm_params: CfmParams = field(default_factory=CfmParams)

    def __post_init__(self) -> None:
        where = "config.json: flow_matching_config"
        if len(self.channels) != 1:
            raise ConfigError(f"{where}.channels must hold one width, not {len(self.channels)}.")
        if self.in_channels != self.prenet_out_dim:
            raise ConfigError(
                f"{where}: in_channels ({self.in_channels}) and prenet_out_dim ({self.prenet_out_dim}) "
                "are both the number of mel bins and must be equal."
            )
        if self.prenet_target_mel_length_scale_ratio != 1.0 or self.spk_emb_dim != 0:
            raise ConfigError(
                f"{where}: only prenet_target_mel_length_scale_ratio 1.0 and spk_emb_dim 0 are supported."
            )
        if self.diffusion_steps < 0:
            raise ConfigError(f"{where}.diffusion_steps must be at least 0, not {self.diffusion_steps}.")


@dataclass
class FlowState:
    """State of a streamed segment: one network state for each solver step."""

    steps: list[VelocityState]
    ended: bool = False

    def copy(self) -> FlowState:
        """An independent copy."""
        return FlowState([dict(step) for step in self.steps], self.ended)


class FlowDecoder(nn.Module):
    """Prenet and velocity network with the released parameter names (docs/model.md, 4.5 - 4.7).

    `prenet(hidden)`, `velocity(...)` and `sample(...)` are the stages one by one, unbatched;
    `sample_batch` and `loss` work on padded batches; `sample_chunks` streams the mel.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.prenet = Prenet(
            config.prenet_in_dim,
            config.prenet_d_model,
            config.prenet_attention_heads,
            config.prenet_ffn_dim,
            config.prenet_nlayers,
            config.prenet_out_dim,
            config.prenet_max_source_positions,
        )
        self.conditional_decoder = Velocity(
            in_channels=config.in_channels + config.prenet_out_dim,
            out_channels=config.in_channels,
            channels=config.channels[0],
            num_heads=config.num_heads,
            head_dim=config.attention_head_dim,
            n_blocks=config.n_blocks,
            num_mid_blocks=config.num_mid_blocks,
            chunk_frames=config.attention_chunk_frames,
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FlowDecoder:
        """Build from the whole config.json; raises ConfigError when an entry is missing or unusable."""
        if "flow_matching_config" not in config:
            raise ConfigError("config.json: the entry 'flow_matching_config' is missing; add it.")
        where = "config.json: flow_matching_config"
        section = config["flow_matching_config"]
        # Both levels may have entries of the published trainer that this package does not use.
        if not isinstance(section, dict):
            raise ConfigError(f"{where} must hold named entries, not {section!r}.")
        params = select(CfmParams, section.get("cfm_params", {}), f"{where}.cfm_params")
        return cls(select(FlowConfig, {**section, "cfm_params": asdict(params)}, where))

    def velocity(self, x: Tensor, mu: Tensor, t: float) -> Tensor:
        """Unguided velocity of x [M, L] under mu [M, L] at flow time t in [0, 1] -> [M, L]."""
        times = torch.tensor([t], dtype=torch.float32, device=x.device)
        return self._velocity(x.T[None], mu.T[None], times)[0].T

    def sample(self, mu: Tensor, noise: Tensor | None = None, num_steps: int | None = None) -> Tensor:
        """Solve the flow from noise [M, L] (None: random) under mu [L, M] -> mel [M, L].

        num_steps: Euler steps, by default those of the configuration; with 0 the mel is mu.
        """
        return self.sample_batch(mu[None], None if noise is None else noise[None], num_steps)[0]

    @torch.no_grad()
    def sample_batch(
        self,
        mu: Tensor,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """`sample` on rows: mu [B, L, M], noise [B, M, L], lengths [B] (None: all full) -> mel [B, M, L].

        Frames beyond a row's length are undefined.
        """
        steps = self._steps(num_steps)
        if steps == 0:
            return mu.transpose(1, 2)
        if noise is None:
            noise = torch.randn(mu.transpose(1, 2).shape, device=mu.device)
        network = partial(self._velocity, lengths=lengths)
        scale = self.config.cfm_params.inference_cfg_rate
        times = solver_times(steps)
        mel = euler(lambda _, x, t: guided_velocity(network, x, mu.float(), t, scale), noise.transpose(1, 2), times)
        return mel.transpose(1, 2).to(mu.dtype)

    def _steps(self, num_steps: int | None) -> int:
        return self.config.diffusion_steps if num_steps is None else num_steps

    def init_state(self, num_steps: int | None = None) -> FlowState:
        """The state before the first chunk of a segment."""
        return FlowState([{} for _ in range(self._steps(num_steps))])

    @torch.no_grad()
    def sample_chunk(self, mu: Tensor, noise: Tensor, state: FlowState) -> Tensor:
        """The next chunk of a segment: mu [L, M], noise [M, L], at most one chunk -> mel [M, L].

        Equal to those frames of `sample` on the whole segment. A chunk of fewer frames than
        `attention_chunk_frames` ends the segment; to sample an unfinished chunk early, use `state.copy()`.
        Raises ValueError for a chunk that is too long, or after the segment's end.
        """
        self._begin_chunk(mu.shape[0], state)
        if not state.steps:
            return mu.T
        scale = self.config.cfm_params.inference_cfg_rate

        def velocity_at(step: int, x: Tensor, t: Tensor) -> Tensor:
            network = partial(self._velocity, state=state.steps[step])
            return guided_velocity(network, x, mu[None].float(), t, scale)

        mel = euler(velocity_at, noise.T[None], solver_times(len(state.steps)))
        return mel[0].T.to(mu.dtype)

    def _begin_chunk(self, frames: int, state: FlowState) -> None:
        """Record the chunk in `state`; raises ValueError where the segment has ended or the chunk is too long."""
        full = self.config.attention_chunk_frames
        if frames > full:
            raise ValueError(f"a chunk has at most {full} frames, not {frames}")
        if state.ended:
            raise ValueError(f"a chunk of fewer than {full} frames has ended this segment")
        state.ended = frames < full

    def sample_chunks(self, mu: Tensor, noise: Tensor | None = None, num_steps: int | None = None) -> Iterator[Tensor]:
        """The mel of `sample`, streamed chunk by chunk: mu [L, M] -> mels [M, at most a chunk]."""
        if noise is None:
            noise = torch.randn(mu.T.shape, device=mu.device)
        state = self.init_state(num_steps)
        frames = self.config.attention_chunk_frames
        noises = noise.split(frames, dim=1)
        for mu_chunk, noise_chunk in zip(mu.split(frames), noises, strict=True):
            yield self.sample_chunk(mu_chunk, noise_chunk, state)

    def loss(
        self,
        hidden: Tensor,
        mel: Tensor,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
        with_velocity: bool = True,
        rows: tuple[Sequence[int], int] | None = None,
    ) -> dict[str, Tensor]:
        """Training losses: `flow` (OT-CFM; only with `with_velocity`) and `prior` (L1 of mu), each a scalar.

        Args:
            hidden: decoder hidden states [B, L, D].
            mel: targets [B, M, L].
            lengths: valid frames of each row [B]; None: all of them.
            generator: source of the random choices.
            rows: see `flow_matching_loss`.
        """
        target = mel.transpose(1, 2)
        mu = self.prenet(hidden)
        losses = {"prior": masked_mean((mu.float() - target).abs(), lengths)}
        if with_velocity:
            network = partial(self._velocity, lengths=lengths)
            # mu is not detached: the flow loss also trains the prenet.
            params = self.config.cfm_params
            losses["flow"] = flow_matching_loss(network, target, mu, params, lengths, generator, rows)
        return losses

    def _velocity(
        self,
        x: Tensor,
        mu: Tensor,
        t: Tensor,
        lengths: Tensor | None = None,
        state: VelocityState | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The network in the dtype of its weights; `lengths` are repeated where guidance doubles the rows."""
        dtype = self.conditional_decoder.final_proj.weight.dtype
        if lengths is not None and lengths.shape[0] != x.shape[0]:
            lengths = lengths.repeat(x.shape[0] // lengths.shape[0])
        velocity: Tensor = self.conditional_decoder(x.to(dtype), mu.to(dtype), t, lengths, state, mask)
        return velocity

"""Optimal-transport conditional flow matching: the path, its loss, the time schedule and the solver.

The model learns the velocity of straight paths from noise to mel; sampling follows it with Euler steps.
Sources: flow matching (arXiv 2210.02747), Matcha-TTS (arXiv 2309.03199), CosyVoice (arXiv 2407.05407).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.lengths import masked_mean

VelocityFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, L, M], mu [B, L, M], t [B] or [1]) -> velocity [B, L, M]."""


@dataclass(frozen=True)
class CfmParams:
    """`flow_matching_config.cfm_params` of config.json.

    `training_cfg_rate`: share of training rows whose condition is dropped. `inference_cfg_rate` w: guidance
    v = (1 + w) v(mu) - w v(0). `reg_loss_type`: prior loss of the prenet.
    """

    sigma_min: float = 1e-6
    solver: str = "euler"
    t_scheduler: str = "cosine"
    training_cfg_rate: float = 0.2
    inference_cfg_rate: float = 0.7
    reg_loss_type: str = "l1"

    def __post_init__(self) -> None:
        for name, only in (("solver", "euler"), ("t_scheduler", "cosine"), ("reg_loss_type", "l1")):
            if getattr(self, name) != only:
                raise ConfigError(f"cfm_params.{name} must be '{only}', not '{getattr(self, name)}'.")


def warp_time(t: Tensor) -> Tensor:
    """The cosine schedule: uniform times to times that are denser near the noise, [0, 1] -> [0, 1]."""
    return 1.0 - torch.cos(t * (math.pi / 2))


def solver_times(num_steps: int) -> list[float]:
    """The solver's num_steps + 1 times from 0 to 1."""
    return warp_time(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps).tolist()


def path_point(noise: Tensor, mel: Tensor, t: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """The straight path's point x_t and its velocity u at times t [B]; noise and mel are [B, L, M]."""
    t = t[:, None, None]
    x = (1.0 - (1.0 - sigma_min) * t) * noise + t * mel
    return x, mel - (1.0 - sigma_min) * noise


def flow_matching_loss(
    velocity: VelocityFunction,
    mel: Tensor,
    mu: Tensor,
    params: CfmParams,
    lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
    rows: tuple[Sequence[int], int] | None = None,
) -> Tensor:
    """Mean squared error of the velocity at one random time of each row's path.

    Args:
        velocity: the network, which knows the lengths of the rows.
        mel: target [B, L, M].
        mu: condition [B, L, M]; whole rows of it are set to zero with probability `training_cfg_rate`.
        params: parameters of the flow.
        lengths: valid frames of each row [B], or None when all are.
        generator: source of the noise, the times and the dropped rows.
        rows: which rows these are of a batch of how many: choices are made for all of them. None: these are all.
    """
    chosen, batch = (list(range(len(mel))), len(mel)) if rows is None else (list(rows[0]), rows[1])
    device = mel.device
    noise = torch.randn((batch, *mel.shape[1:]), generator=generator, device=device)[chosen]
    t = warp_time(torch.rand(batch, generator=generator, device=device))[chosen]
    keep = torch.rand(batch, 1, 1, generator=generator, device=device)[chosen] >= params.training_cfg_rate
    x, target = path_point(noise, mel, t, params.sigma_min)
    error = velocity(x, mu * keep, t).float() - target
    return masked_mean(error.square(), lengths)


def guided_velocity(velocity: VelocityFunction, x: Tensor, mu: Tensor, t: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance with both halves in one batch, the guided one first; x, mu [B, L, M], t [1]."""
    both = velocity(torch.cat([x, x]), torch.cat([mu, torch.zeros_like(mu)]), t)
    conditioned, free = both.float().chunk(2)
    return (1.0 + guidance_scale) * conditioned - guidance_scale * free


def euler(velocity_at: Callable[[int, Tensor, Tensor], Tensor], noise: Tensor, times: list[float]) -> Tensor:
    """Euler steps from noise [B, L, M] along `velocity_at(step, x, t [1])`, in float32."""
    x = noise.float()
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        x = x + (t_next - t) * velocity_at(step, x, torch.full((1,), t, device=x.device))
    return x

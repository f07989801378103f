"""A frozen layer beside a trained low-rank change of its weight: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError, ConfigError
from ..language_model.audio_head import DepthAttention
from ..layers.shapes import shapes_only

METHODS = ("lora", "dora")


@dataclass(frozen=True)
class AdapterConfig:
    """What is adapted and how. Raises ConfigError for what is impossible.

    rank: of the change B A. alpha: the change is scaled by alpha / rank. method: lora, or dora, which learns the norm
    of each row of the weight as well. targets: shell-style patterns of layer names (`adaptable_layers` lists them).
    """

    rank: int = 16
    alpha: float = 32.0
    method: str = "lora"
    targets: tuple[str, ...] = ("language_model.layers.*", "audio_head.transformer_layers.*")

    def __post_init__(self) -> None:
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"adapters: rank and alpha must be above 0, not {self.rank} and {self.alpha}.")
        if self.method not in METHODS:
            raise ConfigError(f"adapters: method must be one of {', '.join(METHODS)}, not '{self.method}'.")
        if not self.targets:
            raise ConfigError("adapters: targets must name at least one layer.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class WeightChange:
    """The tensors of one adapted layer: lora_A [r, in], lora_B [out, r]; DoRA's magnitude [out], the change of the
    norm of each row of the weight, else None."""

    lora_A: Tensor
    lora_B: Tensor
    magnitude: Tensor | None = None

    @property
    def is_zero(self) -> bool:
        """Whether the layer computes what it computes without the change."""
        return not (bool(self.lora_B.any()) or (self.magnitude is not None and bool(self.magnitude.any())))

    def apply(self, weight: Tensor, scale: float) -> Tensor:
        """weight [out, in] -> the changed weight in the same type, computed in the adapters' type."""
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            changed = weight + scale * (self.lora_B @ self.lora_A)
            if self.magnitude is not None:
                changed = changed * row_scale(weight, changed, self.magnitude)[:, None]
        return changed.to(weight.dtype)


def row_scale(weight: Tensor, changed: Tensor, magnitude: Tensor) -> Tensor:
    """(|W| + magnitude) / |W + B A| for each row [out]; the norms count as constants in the gradient (DoRA, 4.3)."""
    with torch.no_grad():
        before, after = (torch.linalg.vector_norm(tensor.float(), dim=1) for tensor in (weight, changed))
        after = after.clamp_min(torch.finfo(after.dtype).tiny)
    return (before + magnitude) / after


def merged_weight(
    weight: Tensor, change: WeightChange, scale: float, layer: str, dtype: torch.dtype | None = None
) -> Tensor:
    """weight [out, in] with its change, added in float32 -> the merged weight in `dtype` (None: the weight's).

    Raises CheckpointError where B is zero, or most of the change is lost in the rounding to that precision.
    """
    refuse_zero({layer: change})
    dtype = dtype or weight.dtype
    base = weight.to(torch.promote_types(weight.dtype, torch.float32))
    exact = change.apply(base, scale)
    merged, difference = exact.to(dtype), exact - base
    kept = ((merged - base.to(dtype)) * difference).sum() / difference.square().sum()
    if kept < 0.5:  # of the change, along its own direction
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(f"the adapter of {layer} is lost in the rounding of {kind} weights; merge in float32.")
    return merged


def refuse_zero(changes: dict[str, WeightChange], where: str = "these adapters") -> None:
    """Raise CheckpointError where an adapter does nothing: a run that did not train it would go unnoticed."""
    zero = [layer for layer, change in changes.items() if change.is_zero]
    if zero:
        raise CheckpointError(
            f"{where}: {len(zero)} of {len(changes)} adapted layers change nothing (B is zero), such as {zero[0]}; "
            "train them, or leave them out of the targets."
        )


class AdaptedLinear(nn.Module):
    """A Linear whose weight [out, in] is W + alpha / rank B A; with B zero, bit for bit the base.

    `weight` and `bias` are those of the equal plain layer, for code that reads them instead of calling the layer.
    """

    def __init__(self, base: nn.Linear, config: AdapterConfig, generator: torch.Generator | None = None) -> None:
        """generator: draws A, on the CPU; None leaves it zero, to be loaded."""
        super().__init__()
        self.base, self.config = base, config
        outputs, inputs = base.weight.shape
        device, bound = base.weight.device, 1 / math.sqrt(inputs)
        first = torch.zeros(config.rank, inputs)
        if generator is not None:
            first.uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, config.rank, device=device))
        magnitude = torch.zeros(outputs, device=device) if config.method == "dora" else None
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)

    @property
    def change(self) -> WeightChange:
        return WeightChange(self.lora_A, self.lora_B, self.magnitude)

    @property
    def weight(self) -> Tensor:
        return self.change.apply(self.base.weight, self.config.scale)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]; only the small products are made beside the base's."""
        plain: Tensor = self.base(x)
        if x.is_meta or not torch.is_autocast_enabled(x.device.type):  # autocast chooses the type itself
            x = x.to(self.lora_A.dtype)
        change = F.linear(F.linear(x, self.lora_A) * self.config.scale, self.lora_B)
        if self.magnitude is not None:
            with torch.no_grad():
                changed = self.base.weight + self.config.scale * (self.lora_B @ self.lora_A)
            scale = row_scale(self.base.weight, changed, self.magnitude)
            product = plain if self.base.bias is None else plain - self.base.bias
            change = (scale - 1) * product + scale * change
        return plain + change.to(plain.dtype)


class AdaptedDepthAttention(DepthAttention):
    """`DepthAttention` whose packed projection has an adapter; its parameters are those of the source."""

    def __init__(self, source: DepthAttention, config: AdapterConfig, generator: torch.Generator | None = None) -> None:
        nn.Module.__init__(self)
        self.heads, self.out_proj = source.heads, source.out_proj
        self.in_proj = AdaptedLinear(linear_over(source.in_proj_weight, source.in_proj_bias), config, generator)

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.in_proj.weight

    @property
    def in_proj_bias(self) -> Tensor:  # type: ignore[override]
        return self.in_proj.base.bias

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See DepthAttention."""
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def plain(self, weight: nn.Parameter) -> DepthAttention:
        """The same attention with this packed weight [3 d, d] and no adapter of its projection."""
        width = weight.shape[1]
        with shapes_only():
            made = DepthAttention(width, width // self.heads)
        made.in_proj_weight, made.in_proj_bias, made.out_proj = weight, self.in_proj.base.bias, self.out_proj
        return made


def linear_over(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """An `nn.Linear` of these very parameters: weight [out, in], bias [out]."""
    with shapes_only():
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return made

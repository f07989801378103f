"""Memory, time and money of a run from the trace of one step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...errors import ConfigError, DataError
from ..common.recipe import StageRecipe
from .stages import StagePlan
from .trace import StepCost, parameter_counts, trace_step

_MFU_RANGE = (0.25, 0.45)
"""Share of the peak rate that training of such models reaches, where nothing was measured."""
_CALIBRATED_RANGE = (0.85, 1.15)
_PRICE_RANGE = (2.0, 4.0)
_DAY_S = 86_400


@dataclass(frozen=True)
class GPU:
    """flops_per_s: dense bfloat16, as its maker states. memory_gb: 10^9 bytes."""

    flops_per_s: float
    memory_gb: float


GPUS = {
    "a100": GPU(312e12, 80),
    "h100": GPU(989e12, 80),
    "h200": GPU(989e12, 141),
    "b200": GPU(2250e12, 180),
    "l40s": GPU(362e12, 48),
    "rtx4090": GPU(165e12, 24),
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. optimizer: its numbers. step: activations, copies in bfloat16 and what the loss needs."""

    weights: int
    gradients: int
    optimizer: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.step


@dataclass(frozen=True)
class Estimate:
    """What a run needs. parts: (name, parameters, those that learn). flops: of one step on all devices together.

    seconds, days, price: (least, most). price is in US dollars.
    """

    parts: tuple[tuple[str, int, int], ...]
    memory: Memory
    flops: float
    units: float
    unit: str
    steps: int
    seconds: tuple[float, float]
    days: tuple[float, float]
    price: tuple[float, float]
    notes: tuple[str, ...]


def estimate(
    recipe: StageRecipe,
    plan: StagePlan,
    gpus: int = 1,
    gpu: str = "h200",
    price: float | None = None,
    bfloat16: bool = True,
    step_seconds: float | None = None,
) -> Estimate:
    """What `recipe` needs on `gpus` devices.

    step_seconds: measured for a step of this recipe on one device (`measured_step_seconds`); None: the rate of the
    device is assumed. price: of a device hour in dollars; None: an assumed range. Raises ConfigError for a device that
    is not known, or for a number of devices that cannot share a step.
    """
    if gpu not in GPUS:
        raise ConfigError(f"there are no figures of the GPU '{gpu}'; there are those of {', '.join(GPUS)}.")
    if gpus % plan.tensor:
        raise ConfigError(f"tensor_parallel: {plan.tensor} does not divide {gpus} GPUs.")
    parallel, groups = plan.packs or plan.rows, gpus // plan.tensor
    if groups > parallel or (plan.packs and plan.packs % groups):
        raise ConfigError(f"a step has {parallel} rows or packs, which {groups} GPUs cannot share; change the recipe.")
    rows = math.ceil(plan.rows / (plan.packs or groups * plan.accumulation))  # of one pass
    cost = trace_step(plan.computed.values(), lambda: plan.step(rows), bfloat16)
    flops = cost.flops * plan.tensor * plan.rows / rows
    if step_seconds is not None:
        seconds = tuple(share * step_seconds / gpus for share in _CALIBRATED_RANGE)
    else:
        rate = GPUS[gpu].flops_per_s
        seconds = tuple(flops / (gpus * rate * share) for share in reversed(_MFU_RANGE))
    days = tuple(time * recipe.steps / _DAY_S for time in seconds)
    prices = _PRICE_RANGE if price is None else (price, price)
    notes = [*plan.notes]
    if step_seconds is None:
        low, high = _MFU_RANGE
        notes.append(f"time: {low:.0%} to {high:.0%} of the peak rate are assumed; calibrate with a run of 20 steps")
    if price is None:
        notes.append(f"money: {prices[0]:g} to {prices[1]:g} dollars a GPU hour are assumed")
    memory = memory_of(plan, cost, groups)
    if memory.total > GPUS[gpu].memory_gb * 1e9:
        notes.append(f"memory: more than the {GPUS[gpu].memory_gb:g} GB of one {gpu}")
    return Estimate(
        tuple(parameter_counts(plan.parts)),
        memory,
        flops,
        plan.units,
        plan.unit,
        recipe.steps,
        (seconds[0], seconds[1]),
        (days[0], days[1]),
        (days[0] * 24 * gpus * prices[0], days[1] * 24 * gpus * prices[1]),
        tuple(notes),
    )


def memory_of(plan: StagePlan, cost: StepCost, gpus: int) -> Memory:
    """On one of `gpus` devices. On several, a part in which anything learns is split over them (FSDP): a device holds
    its share, and gathers two layers at a time in bfloat16. With tensor parallelism `gpus` counts groups."""
    parts = plan.computed
    counts = {name: (total, learning) for name, total, learning in parameter_counts(parts)}
    weights = sum(_bytes(parts[name]) // (gpus if learning else 1) for name, (_, learning) in counts.items())
    learning = sum(learning for _, learning in counts.values())
    step = cost.peak_bytes - cost.gradient_bytes
    if gpus > 1:
        step += 4 * max(_largest_layer(module) for module in parts.values()) - cost.cast_bytes
    optimizer = (8 * learning - 4 * plan.momentum_only) // gpus
    return Memory(weights, cost.gradient_bytes // gpus, optimizer, step)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in {id(t): t for t in (*module.parameters(), *module.buffers())}.values())


def _largest_layer(module: nn.Module) -> int:
    """Parameters of the largest item of a module list, or of the largest table."""
    layers = [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]
    tables = [part for part in module.modules() if isinstance(part, (nn.Embedding, nn.Linear))]
    return max((sum(p.numel() for p in part.parameters()) for part in (*layers, *tables)), default=0)


def measured_step_seconds(output: Path) -> float:
    """Seconds of a step in a run of the recipe, from its `log.jsonl`; its first line does not count.

    Raises DataError where there are not enough lines.
    """
    path = output / "log.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = [(row["step"], row["elapsed_s"]) for row in rows if "loss" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: this is no log of a training run ({error}).") from error
    if len(points) < 3 or points[-1][0] <= points[1][0] or points[-1][1] <= points[1][1]:
        raise DataError(f"{path}: too short to measure; train 20 steps with log_every=1 and sample_every=1000.")
    return float((points[-1][1] - points[1][1]) / (points[-1][0] - points[1][0]))

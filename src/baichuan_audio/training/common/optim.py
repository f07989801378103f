"""Optimizer, learning-rate schedule, frozen sets."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ...errors import TrainingError
from .recipe import OptimizerRecipe


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    recipe: OptimizerRecipe,
    pretrained: Iterable[nn.Parameter] = (),
    pretrained_lr_ratio: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over the parameters that may learn; matrices decay, vectors (norms, biases) do not.

    Those of `pretrained` learn at `pretrained_lr_ratio` times the rate. Raises TrainingError when nothing may learn.
    """
    learning = [p for p in parameters if p.requires_grad]
    if not learning:
        raise TrainingError("no parameter is left to train: check the frozen set.")
    slow = {id(p) for p in pretrained}
    groups = [
        {"params": [p for p in learning if (p.ndim > 1) == matrices and (id(p) in slow) == is_slow]}
        | {
            "weight_decay": recipe.weight_decay if matrices else 0.0,
            "lr_ratio": pretrained_lr_ratio if is_slow else 1.0,
        }
        for is_slow in (False, True)
        for matrices in (True, False)
    ]
    beta1, beta2 = recipe.betas
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(beta1, beta2),
        fused=True,
    )


def learning_rate_at(step: int, recipe: OptimizerRecipe, total_steps: int) -> float:
    """Rate of step 0..total_steps-1: linear warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = min(1.0, (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps))
    share = recipe.final_lr_ratio + (1 - recipe.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * share


def optimizer_step(
    optimizers: Iterable[torch.optim.Optimizer], recipe: OptimizerRecipe, step: int, total_steps: int
) -> dict[str, float]:
    """Set the rate of step 0..total_steps-1, clip, step and clear the gradients, each optimizer for itself.

    Returns what every stage logs: `grad_norm` before clipping, of several optimizers the largest, and `lr`. Where it is
    not finite the optimizer's step is left out: one bad sample must not ruin the run.
    """
    rate, norms = learning_rate_at(step, recipe, total_steps), []
    for optimizer in optimizers:
        parameters = []
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1.0)
            parameters += group["params"]
        norms.append(float(nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)))
        if math.isfinite(norms[-1]):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": max(norms), "lr": rate}


def freeze_except(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let only parameters whose name matches one of the shell-style patterns learn; returns their names.

    Raises TrainingError when a pattern matches nothing (a spelling mistake would freeze in silence).
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise TrainingError(f"no parameter matches '{pattern}'.")
    learning = []
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
        if parameter.requires_grad:
            learning.append(name)
    return learning

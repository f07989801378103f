"""Optimizer, learning-rate schedule, gradient norms, frozen sets."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TrainingError
from .distributed.sharding import local, mesh_of, tensor_copies
from .distributed.world import World
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
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if ((p.ndim > 1), id(p) in slow, mesh_of(p)) == (matrices, is_slow, mesh)]}
        | {
            "weight_decay": recipe.weight_decay if matrices else 0.0,
            "lr_ratio": pretrained_lr_ratio if is_slow else 1.0,
        }
        for is_slow in (False, True)
        for matrices in (True, False)
        for mesh in dict.fromkeys(map(mesh_of, learning))  # of one only can all be updated at once
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


def with_gradients(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """An optimizer's parameters that have a gradient."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def gradient_norms(parameters: Sequence[nn.Parameter], world: World) -> Tensor:
    """The norm of every parameter's whole gradient [P], the same on all processes."""
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(0)
    if world.size > 1:
        copies = torch.tensor([tensor_copies(p, world) for p in parameters if p.grad is not None]).to(norms.device)
        norms = world.sum_over_shards(norms.double().square() / copies).sqrt().float()
    return norms.cpu()


def norms_by_part(parameters: Sequence[nn.Parameter], norms: Tensor, names: Mapping[int, str]) -> dict[str, float]:
    """`grad_norm/<part>` of gradients whose norms are [P]: a part is a module of a stage and what is directly in it."""
    squares: dict[str, float] = {}
    for parameter, norm in zip(parameters, norms.tolist(), strict=True):
        first, *more = names[id(parameter)].removeprefix("parts.").split(".")[:2]
        part = ".".join([first, *(name for name in more if not name.isdigit())])  # a list is one part
        squares[part] = squares.get(part, 0.0) + norm * norm
    return {f"grad_norm/{part}": math.sqrt(square) for part, square in squares.items()}


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    norms: Tensor,
    recipe: OptimizerRecipe,
    step: int,
    total_steps: int,
) -> dict[str, float]:
    """Set the rate of step 0..total_steps-1, clip and step; `gradient_norms` of the parameters are [P] and finite.

    Returns what every stage logs: `grad_norm` before clipping and `lr`.
    """
    total = torch.linalg.vector_norm(norms)
    if gradients := [local(p.grad) for p in parameters if p.grad is not None]:
        torch._foreach_mul_(gradients, float((recipe.grad_clip / (total + 1e-6)).clamp(max=1.0)))
    rate = learning_rate_at(step, recipe, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)
    optimizer.step()
    return {"grad_norm": float(total), "lr": rate}


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

"""Training states that resume exactly: weights, optimizers, random generators, step.

Data order is a pure function of (seed, step) in every stage, so the step is the data position.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint import PREFIXES
from ...errors import CheckpointError, TrainingError
from ...safetensors_io import find_tensors

_NAME = "state-{step:08d}.pt"


def save_training_state(
    directory: str | os.PathLike[str],
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    keep: int = 2,
) -> Path:
    """Write everything that the next step depends on; written aside, renamed, older states beyond `keep` removed.

    Raises TrainingError when the disk is full or the folder cannot be written.
    """
    directory = Path(directory)
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "random": _random_state(),
    }
    path = directory / _NAME.format(step=step)
    aside = path.with_suffix(".part")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(state, aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        raise TrainingError(f"{path}: the training state could not be written ({error}).") from error
    for old in _states(directory)[:-keep]:
        old.unlink()
    return path


def load_training_state(
    directory: str | os.PathLike[str],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> int:
    """Put the newest state back in place; returns the step to go on with, 0 when there is none.

    Raises TrainingError when the state does not belong to these modules, or the file is damaged.
    """
    states = _states(Path(directory))
    if not states:
        return 0
    path = states[-1]
    state = _read_state(path)
    if missing := next((name for name in modules if name not in state["modules"]), None):
        raise TrainingError(f"{path}: holds no {missing}; it is the state of another stage. Use another output folder.")
    try:
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        _restore_random_state(state["random"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: cannot be resumed ({what_is_wrong(error)}); use another output folder or remove it."
        ) from error
    return int(state["step"])


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds; each means the file cannot be used
        raise TrainingError(
            f"{path}: not a training state, or a damaged one; remove it to go on from before."
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("modules"), dict):
        raise TrainingError(f"{path}: not a training state; use another folder or remove it.")
    return state


def load_module(path: str | os.PathLike[str], name: str, module: nn.Module) -> None:
    """Load one module's weights out of the newest training state under `path`; raises TrainingError."""
    fit(module, module_weights(path, name), path)


def load_part(module: nn.Module, name: str, source: str | os.PathLike[str]) -> None:
    """Fill a model's part `name` (`tokenizer`, `flow` ...) from a training output or from a checkpoint directory.

    Raises TrainingError or CheckpointError when the source has no such weights.
    """
    if not (Path(source) / "config.json").is_file():
        load_module(source, name, module)
        return
    weights = {}
    for released, tensor in find_tensors(Path(source)).items():
        for prefix, ours in PREFIXES:
            if ours.startswith(f"{name}.") and released.startswith(prefix):
                weights[ours.removeprefix(f"{name}.") + released.removeprefix(prefix)] = tensor.read()
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: its {name} does not fit the recipe's config.json ({what_is_wrong(error)})."
        ) from error


def fit(module: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Load weights that come from `path`; raises TrainingError where they are another module's."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{path}: does not fit ({what_is_wrong(error)}).") from error


def what_is_wrong(error: Exception) -> str:
    """The first thing that is wrong: where PyTorch lists them, its first line only says that it does."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip().rstrip(".")


def module_weights(path: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    """One module's weights out of the newest training state under `path`; raises TrainingError."""
    states = _states(Path(path))
    if not states:
        raise TrainingError(f"{path}: holds no training state; train that stage first.")
    weights: dict[str, Tensor] | None = _read_state(states[-1])["modules"].get(name)
    if weights is None:
        raise TrainingError(f"{states[-1]}: holds no {name}; it is the state of another stage.")
    return weights


def has_state(directory: str | os.PathLike[str]) -> bool:
    """Whether a run in this folder would be resumed."""
    return bool(_states(Path(directory)))


def _states(directory: Path) -> list[Path]:
    return sorted(directory.glob("state-*.pt"))


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])

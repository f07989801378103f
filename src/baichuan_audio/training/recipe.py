"""Recipes: one YAML file a stage, read into frozen dataclasses; `key=value` overrides from the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..config import strict
from ..errors import ConfigError, MissingDependencyError

T = TypeVar("T")
_LARGEST_SEED, _MOST_THREADS = 1 << 31, 1024


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with linear warm-up, then a cosine to `final_share` of the rate (or a constant rate)."""

    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "cosine"
    final_share: float = 0.05
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"optimizer: schedule must be 'cosine' or 'constant', not '{self.schedule}'.")
        if min(self.learning_rate, self.warmup_steps, self.weight_decay) < 0 or self.grad_clip <= 0:
            raise ConfigError(
                "optimizer: learning_rate, warmup_steps and weight_decay must not be negative, grad_clip positive."
            )
        if len(self.betas) != 2:
            raise ConfigError("optimizer: betas must be two numbers.")


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """What every stage's recipe has."""

    output: str
    """Folder for checkpoints, logs and samples."""
    steps: int
    seed: int = 0
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    device: str = "cpu"
    log_every: int = 20
    sample_every: int = 500
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "sample_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name, most in (("seed", _LARGEST_SEED), ("threads", _MOST_THREADS)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must lie between 0 and {most}, not {getattr(self, name)}.")


def load_recipe(path: str | os.PathLike[str], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML recipe into `cls`, then apply overrides like `steps=10` or `optimizer.learning_rate=1e-4`.

    Raises ConfigError for a missing file, broken YAML, or an unknown entry (named, with the nearest valid one).
    """
    yaml = _yaml()
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such recipe.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]}).") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: a recipe holds named entries (key: value).")
    values: dict[str, Any] = dict(content)
    for override in overrides:
        _apply(values, override, yaml)
    return strict(cls, values, str(path))


def _apply(values: dict[str, Any], override: str, yaml: Any) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"override '{override}': write it as name=value.")
    *groups, last = name.split(".")
    for group in groups:
        inner = values.get(group) or {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"override '{override}': '{group}' holds {inner!r} and no named entries.")
        values[group] = dict(inner)
        values = values[group]
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"override '{override}': {text!r} is no value in YAML.") from error


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("recipes need PyYAML: pip install 'baichuan-audio[train]'.") from error
    return yaml

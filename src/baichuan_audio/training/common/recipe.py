"""What the recipes of all stages have: one YAML file a stage, read into frozen dataclasses (`config.load_recipe`)."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError

_LARGEST_SEED, _MOST_THREADS = 1 << 31, 1024


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with linear warm-up, then a cosine to `final_lr_ratio` of the rate (or a constant rate)."""

    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "cosine"
    final_lr_ratio: float = 0.05
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

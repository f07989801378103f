"""Recipes: one YAML file a stage, read into a frozen dataclass; what the recipes of all stages have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch

from ...config import read_recipe, strict
from ...errors import ConfigError
from ...layers import precision

_MAX_SEED, _MAX_THREADS = 1 << 31, 1024

RENAMED_KEYS = {
    "diet": "mixture",
    "adversarial_from": "adversarial_start_step",
    "clips": "dataset",
    "clips.corpus": "dataset",
    "clips.max_seconds": "crop_seconds",
    "clips.min_seconds": "min_seconds",
    "clips.seconds_per_step": "batch_seconds",
    "clips.weights": "source_weights",
    "codebooks": "codebook_source",
    "corpus": "dataset",
    "data": "dataset",
    "discriminator_optimizer.final_share": "discriminator_optimizer.final_lr_ratio",
    "first_code_weight": "codebook0_weight",
    "fresh_audio": "reset_audio_embeddings",
    "head_first": "head_warmup_steps",
    "initial": "init_from",
    "kinds": "source_weights",
    "mel_from": "mel_start_step",
    "mixture.emphasis": "mixture.skill_weights",
    "mixture.kinds": "mixture.source_weights",
    "mixture.longest": "mixture.max_frames",
    "mixture.typed": "mixture.text_question_prob",
    "model": "init_from",
    "optimizer.final_share": "optimizer.final_lr_ratio",
    "own_f0_from": "predicted_f0_start_step",
    "positions": "tokens_per_step",
    "quantise_from": "quantize_start_step",
    "quantizer.level_dropout": "quantizer.quantizer_dropout",
    "speaker": "preview_decoder",
}
"""Old name of an entry -> its name now. Old names are read, with a warning line, until the next release."""


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
    precision: str = "auto"
    """Type of products: float32, bfloat16 (parameters and their gradients stay float32), or auto: bfloat16 where the
    device is fast with it."""
    activation_checkpointing: bool = False
    """Keep only the inputs of Transformer layers for the backward pass and compute the layers again: less memory, a
    third more time."""
    stall_limit_s: float = 600.0
    """With several processes: the time without a step after which all print their stacks and exit; 0: never. Ten times
    as long for the first step, validation, samples and states."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"precision must be auto, float32 or bfloat16, not '{self.precision}'.")
        if self.stall_limit_s < 0:
            raise ConfigError(f"stall_limit_s must not be negative, it is {self.stall_limit_s:g}.")
        for name in ("steps", "log_every", "sample_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name, most in (("seed", _MAX_SEED), ("threads", _MAX_THREADS)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must lie between 0 and {most}, not {getattr(self, name)}.")

    def prepare(self) -> None:
        """Set PyTorch's CPU threads and seed."""
        if self.threads > 0:
            torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)

    def autocast(self) -> AbstractContextManager[object]:
        """The block's products are of the recipe's precision."""
        if self.precision == "float32":
            return nullcontext()
        if self.precision == "bfloat16":
            return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16)
        return precision.autocast(self.device)

    @property
    def in_bfloat16(self) -> bool:
        """Whether `autocast` computes in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and precision.fast_bfloat16(self.device))


@dataclass(frozen=True, kw_only=True)
class AudioRecipe(StageRecipe):
    """What the recipe of every stage that learns from waveforms has."""

    dataset: str
    """Folder of the clip store."""
    source_weights: dict[str, float] = field(default_factory=dict)
    """Share of the audio drawn from each source ("librispeech"), kind ("answer", "question", "read", "real") or
    speaker; a clip of none that is named is not drawn. Empty: every second of all clips alike."""
    gradient_accumulation: int = 1
    """Micro-batches into which a process cuts its part of a step: less memory, the same gradient. Tokenizer and vocoder
    then compute the forward pass twice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_accumulation < 1:
            raise ConfigError(f"gradient_accumulation must be at least 1, not {self.gradient_accumulation}.")


R = TypeVar("R", bound=StageRecipe)


def load_stage_recipe(path: str | os.PathLike[str], cls: type[R], overrides: Sequence[str] = ()) -> R:
    """Read a stage's YAML recipe with overrides (`steps=10`) into `cls`; old names of entries are read with a warning.

    Raises ConfigError for a missing file, broken YAML, or an unknown entry (named, with the nearest valid one).
    """
    values = read_recipe(path, overrides)
    known = {field.name for field in fields(cls)}
    for old, new in RENAMED_KEYS.items():
        if old not in known and new.partition(".")[0] in known:
            _rename(values, old, new, str(path))
    if values.get("clips") == {}:
        del values["clips"]  # its entries were all moved
    try:
        return strict(cls, values, str(path))
    except ConfigError as error:  # what a class checks itself does not know the file
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error


def _rename(values: dict[str, Any], old: str, new: str, where: str) -> None:
    """Move an entry to its new name; raises ConfigError where the recipe has both."""
    *old_groups, old_last = old.split(".")
    source = _group(values, old_groups)
    if source is None or old_last not in source or (old == "clips" and isinstance(source[old_last], dict)):
        return
    *new_groups, new_last = new.split(".")
    target = _group(values, new_groups)
    if target is None:
        return
    if new_last in target:
        raise ConfigError(f"{where}: '{old}' is now called '{new}', and both are given; remove '{old}'.")
    print(f"{where}: '{old}' is now called '{new}'; rename it before the next release.", file=sys.stderr)
    target[new_last] = source.pop(old_last)


def _group(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The entries under nested names; None where there are none."""
    for name in names:
        inner = values.get(name)
        if not isinstance(inner, dict):
            return None
        values = inner
    return values

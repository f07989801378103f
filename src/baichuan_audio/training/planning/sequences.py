"""How many positions, targets and frames a step of a language model recipe has: drawn from its data, or typical."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace

from ...checkpoint import model_without_weights
from ..language_model.recipe import LanguageModelRecipe
from ..language_model.steps import TrainingData

_DRAWN_STEPS = 16
_TYPICAL_LENGTH = 400
_TYPICAL = {
    "text_dialogue": (0.6, 0.0, 0.0),
    "asr": (0.18, 0.7, 0.0),
    "tts": (0.0, 0.7, 0.7),
    "heard_dialogue": (0.3, 0.55, 0.0),
    "spoken_dialogue": (0.12, 0.75, 0.42),
    "heard_interleaved": (0.25, 0.45, 0.0),
    "spoken_interleaved": (0.2, 0.7, 0.7),
    "pure_audio": (0.0, 0.97, 0.97),
}
"""Task -> share of its positions that predict text, are code frames, and predict code frames: from 12.5 frames and some
3.5 text ids a second, and the loss masks of docs/model.md."""

_ALL_KINDS = dict.fromkeys(_TYPICAL, 1.0)
"""Of shards, whose kinds are not known before they are there."""


@dataclass(frozen=True)
class StepShape:
    """rows x length positions with padding, of which so many are code frames, predict text, the text being spoken, a
    frame with all codebooks (deep), or its first codebook only (shallow)."""

    rows: int
    length: int
    frames: int
    text: int
    deep: int
    shallow: int

    def rescaled(self, rows: int) -> StepShape:
        """The same sequences, but so many of them."""
        counts = (self.frames, self.text, self.deep, self.shallow)
        return StepShape(rows, self.length, *(round(count * rows / self.rows) for count in counts))


def drawn_shape(recipe: LanguageModelRecipe, steps: int = _DRAWN_STEPS) -> StepShape:
    """The mean of the first steps of the recipe; a sequence of a pack counts as a row.

    Raises what drawing from its data raises where they are missing.
    """
    model = model_without_weights(recipe.init_from)
    steps = min(steps, recipe.steps)
    with tempfile.TemporaryDirectory() as unused:
        data = TrainingData(replace(recipe, output=unused), model)
        batches = [batch for step in range(steps) for batch in data.batches(step)]
    rows = max(1, round(sum(len(batch.lengths) or len(batch.ids) for batch in batches) / steps))
    positions, targets = (
        sum(counts) / steps
        for counts in ([batch.ids.numel() for batch in batches], [len(batch.frames) for batch in batches])
    )
    deep = round(sum(int(batch.depth.sum()) for batch in batches) / steps)
    return StepShape(
        rows,
        round(positions / rows),
        round(sum(batch.codes.shape[1] for batch in batches) / steps),
        round(sum(len(batch.text) for batch in batches) / steps),
        deep,
        round(targets) - deep,
    )


def typical_shape(recipe: LanguageModelRecipe) -> StepShape:
    """What sequences of the recipe's tasks usually have."""
    tasks = _ALL_KINDS if recipe.mixture is None else recipe.mixture.tasks
    tasks = {name: weight for name, weight in tasks.items() if weight > 0}
    total = sum(tasks.values())
    shares = [sum(weight * _TYPICAL[name][i] for name, weight in tasks.items()) / total for i in range(3)]
    rows = max(1, round(recipe.tokens_per_step / _TYPICAL_LENGTH))
    length = round(recipe.tokens_per_step / rows)
    text, frames, targets = (round(share * rows * length) for share in shares)
    deep = round(recipe.audio_head_fraction * targets)
    return StepShape(rows, length, frames, text, deep, targets - deep)

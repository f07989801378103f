"""How many positions, targets and frames a step of a language model recipe has: drawn from its data, or typical."""

from __future__ import annotations

from dataclasses import dataclass

from ...checkpoint import model_without_weights
from ..language_model.recipe import LanguageModelRecipe

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


@dataclass(frozen=True)
class StepShape:
    """rows x length positions with padding, of which so many are code frames, predict text, the text being spoken, a
    frame with all codebooks (deep), or its first codebook only (shallow)."""

    rows: int
    length: int
    frames: int
    text: int
    aligned: int
    deep: int
    shallow: int

    def rescaled(self, rows: int) -> StepShape:
        """The same sequences, but so many of them."""
        counts = (self.frames, self.text, self.aligned, self.deep, self.shallow)
        return StepShape(rows, self.length, *(round(count * rows / self.rows) for count in counts))


def drawn_shape(recipe: LanguageModelRecipe, steps: int = _DRAWN_STEPS) -> StepShape:
    """The mean of the first steps of the recipe. Raises what drawing from its data raises where they are missing."""
    from ...data.mixture.batches import Batches
    from ..language_model.batch import collate
    from ..language_model.data import make_mixture

    model = model_without_weights(recipe.init_from)
    draw = Batches(make_mixture(recipe, model, "train").draw, recipe.tokens_per_step, recipe.seed, recipe.steps)
    special, sizes = model.special, model.language_model.codebook_sizes
    steps = min(steps, recipe.steps)
    batches = [collate(draw(step), special.end_of_text, special.audio_pad, sizes) for step in range(steps)]
    rows = max(1, round(sum(len(batch.ids) for batch in batches) / steps))
    positions = sum(batch.ids.numel() for batch in batches) / steps
    targets = sum(len(batch.frames) for batch in batches) / steps
    deep = round(recipe.audio_head_fraction * targets)
    aligned = sum(len(batch.aligned) for batch in batches) / steps
    return StepShape(
        rows,
        round(positions / rows),
        round(sum(batch.codes.shape[1] for batch in batches) / steps),
        round(sum(len(batch.text) for batch in batches) / steps),
        round(aligned),
        deep,
        round(targets) - deep,
    )


def typical_shape(recipe: LanguageModelRecipe) -> StepShape:
    """What sequences of the recipe's tasks usually have."""
    tasks = dict.fromkeys(_TYPICAL, 1.0)  # shards alone: all kinds
    if recipe.mixture is not None:
        tasks = {name: weight for name, weight in recipe.mixture.tasks.items() if weight > 0}
    total = sum(tasks.values())
    shares = [sum(weight * _TYPICAL[name][i] for name, weight in tasks.items()) / total for i in range(3)]
    rows = max(1, round(recipe.tokens_per_step / _TYPICAL_LENGTH))
    length = round(recipe.tokens_per_step / rows)
    text, frames, targets = (round(share * rows * length) for share in shares)
    deep = round(recipe.audio_head_fraction * targets)
    return StepShape(rows, length, frames, text, 0, deep, targets - deep)

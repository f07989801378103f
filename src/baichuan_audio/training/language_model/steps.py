"""What each step trains on: sequences of shards and of the mixture, in batches for one process or several.

A step is a pure function of the seed and its number. In packed training it is the same for any number of packs and
processes; nothing has to be stored to resume it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.mixture.batches import Batches
from ...data.mixture.mixture import Mixture
from ...data.mixture.packing import balanced, pack_efficiency
from ...data.mixture.shard_sequences import ShardSequences, StoredSequence
from ...data.sequences import TokenSequence
from ...errors import ConfigError
from ...model import BaichuanAudio
from .batch import Batch, collate, depth_loss_subset
from .data import make_mixture, sequence_format
from .recipe import LanguageModelRecipe

WINDOW = 16
"""Steps whose sequences are drawn together and shared out by length."""


class TrainingData:
    """The batches of every step of a recipe.

    Raises ConfigError or DataError where the recipe's data are missing or unfit.
    """

    def __init__(self, recipe: LanguageModelRecipe, model: BaichuanAudio) -> None:
        self._recipe, self._collator = recipe, Collator(model)
        self._mixture = None if recipe.mixture is None else make_mixture(recipe, model, "train")
        self._shards = read_shards(recipe, model, "train") if recipe.shards else None
        if self._shards is not None:
            report_left_out(self._shards, Path(recipe.output))
        self._window: tuple[int, list[list[StoredSequence]]] = (-1, [])
        self._batches: Batches | None = None
        if self._mixture is not None and not recipe.packed:
            self._batches = Batches(self._mixture.draw, recipe.tokens_per_step, recipe.seed)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> list[Batch]:
        """The batches of a step that process `rank` of `world` works on, on the CPU.

        Each process has the same number of them, so processes must be a divisor of `packs_per_step`.
        """
        recipe = self._recipe
        if self._batches is not None:
            if world > 1:
                raise ConfigError("several processes share packs: set `packing: true` in the recipe.")
            return [self._prepared(self._collator(self._batches(step)), step)]
        if recipe.packs_per_step % world:
            raise ConfigError(f"packs_per_step must be a multiple of {world}, the number of processes.")
        return [
            self._prepared(self._collator([sequence.load() for _, sequence in pack], [n for n, _ in pack]), step)
            for pack in self.packs(step)[rank::world]
        ]

    def packs(self, step: int) -> list[list[tuple[int, StoredSequence]]]:
        """The packs of a step: each sequence with its place in the step. Without packing there are none."""
        sequences = self.sequences(step)
        groups = balanced([sequence.length for sequence in sequences], self._recipe.packs_per_step)
        if not all(groups):
            raise ConfigError(
                f"step {step} has {len(sequences)} sequences for {len(groups)} packs: raise tokens_per_step, or lower "
                "packs_per_step."
            )
        return [[(number, sequences[number]) for number in group] for group in groups]

    def pack_efficiency(self, step: int) -> float:
        """Mean length of a step's packs over that of the longest, for which processes wait."""
        return pack_efficiency([sum(sequence.length for _, sequence in pack) for pack in self.packs(step)])

    def sequences(self, step: int) -> list[StoredSequence]:
        """The sequences of a packed step, in a fixed order; their codes are not read yet."""
        window, offset = divmod(step, WINDOW)
        if self._window[0] != window:
            self._window = (window, self._make_window(window))
        return self._window[1][offset]

    def _make_window(self, window: int) -> list[list[StoredSequence]]:
        recipe, drawn = self._recipe, list[StoredSequence]()
        budget = recipe.tokens_per_step * WINDOW
        share = 0.0 if self._mixture is None else 1.0 if self._shards is None else recipe.mixture_share
        if self._shards is not None:
            drawn += self._shards.window(window, round((1 - share) * budget), recipe.seed)
        if self._mixture is not None:
            drawn += _draw(self._mixture, round(share * budget), np.random.default_rng([recipe.seed, window]))
        steps = balanced([sequence.length for sequence in drawn], WINDOW)
        if not all(steps):
            raise ConfigError(
                f"tokens_per_step {recipe.tokens_per_step} is too few: {WINDOW} steps have {len(drawn)} sequences, of "
                f"up to {max((sequence.length for sequence in drawn), default=0)} positions."
            )
        order = np.random.default_rng([recipe.seed, window, 4]).permutation(WINDOW)
        return [[drawn[index] for index in steps[offset]] for offset in order]

    def _prepared(self, batch: Batch, step: int) -> Batch:
        """The batch with losses on all codebooks for the recipe's share of its frames."""
        recipe = self._recipe
        if recipe.audio_head_fraction < 1:
            batch = depth_loss_subset(batch, recipe.audio_head_fraction, recipe.seed, step)
        return batch


def _draw(mixture: Mixture, positions: int, rng: np.random.Generator) -> list[StoredSequence]:
    """Sequences of the tasks until they have so many positions."""
    drawn: list[StoredSequence] = []
    total = 0
    while total < positions:
        sequence = mixture.draw(rng)
        drawn.append(StoredSequence(sequence.id, sequence.kind, len(sequence), lambda sequence=sequence: sequence))  # type: ignore[misc]
        total += len(sequence)
    return drawn


class Collator:
    """Makes a model's batches of sequences; with their places in the step they are packed."""

    def __init__(self, model: BaichuanAudio) -> None:
        self._ids = model.special.end_of_text, model.special.audio_pad
        self._sizes = model.language_model.codebook_sizes

    def __call__(self, sequences: Sequence[TokenSequence], numbers: Sequence[int] | None = None) -> Batch:
        return collate(sequences, *self._ids, self._sizes, numbers)


def read_shards(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> ShardSequences:
    """The sequences of the recipe's shards."""
    return ShardSequences(recipe.shards, sequence_format(model), split, recipe.max_sequence_length, recipe.languages)


def report_left_out(shards: ShardSequences, output: Path) -> None:
    """Say how many samples are split or left out; the ids of the latter go to `left_out.txt`."""
    if shards.split:
        print(f"{shards.split} samples are longer than max_sequence_length and are read in parts", file=sys.stderr)
    if shards.left_out:
        output.mkdir(parents=True, exist_ok=True)
        file = output / "left_out.txt"
        file.write_text("".join(f"{id_}\t{reason}\n" for id_, reason in shards.left_out), encoding="utf-8")
        print(f"{len(shards.left_out)} samples are left out; {file} names them", file=sys.stderr)


def validation_batches(recipe: LanguageModelRecipe, model: BaichuanAudio) -> list[Batch]:
    """Sequences of the validation split, the same in every run; none where the recipe asks for none."""
    count, collator = recipe.validation_sequences, Collator(model)
    if not count:
        return []
    drawn: list[TokenSequence] = []
    if recipe.mixture is not None:
        mixture = make_mixture(recipe, model, "validation")
        rng = np.random.default_rng([recipe.seed, 2])
        drawn += [mixture.draw(rng) for _ in range(count)]
    if recipe.shards:
        sequences = read_shards(recipe, model, "validation").sequences
        chosen = np.random.default_rng([recipe.seed, 5]).permutation(len(sequences))[:count]
        drawn += [sequences[index].load() for index in sorted(chosen)]
    drawn.sort(key=len)
    parts = [drawn[start : start + 16] for start in range(0, len(drawn), 16)]
    if not recipe.packed:
        return [collator(part).to(recipe.device) for part in parts]
    return [collator(part, range(len(part))).to(recipe.device) for part in parts]

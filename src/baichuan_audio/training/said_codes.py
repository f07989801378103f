"""Codes of the voices' clips as the language model would say them: what a decoder learns from to make its speech clear.

Each frame is drawn after the true ones before it, so it belongs to the same moment of the recording, whose mel is then
the target: a decoder that sees such codes learns which of their faults to overhear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import write_codes
from ..data.drawing import Utterance
from ..data.mixture import Mixture
from ..data.sequences import TokenSequence
from ..errors import TrainingError
from ..pipeline import BaichuanAudio
from .lm_batch import collate, draw
from .lm_data import make_mixture
from .lm_recipe import LanguageModelRecipe


def write_said_codes(
    recipe: LanguageModelRecipe,
    model: BaichuanAudio,
    output: str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes a store of such codes of every clip of the recipe's training split that an output voice says.

    Returns how many. `progress(done, all)`. Raises TrainingError where no voice says anything.
    """
    mixture = make_mixture(replace(recipe, generated=0, sums=0), model, "train")
    wanted = [found for found in mixture.utterances if found.voice is not None]
    if not wanted:
        raise TrainingError("none of the recipe's clips has codes and is spoken by one of the model's voices.")
    codes: dict[str, Tensor] = {}
    for number, (clips, sequences) in enumerate(_batches(mixture, wanted, recipe.positions)):
        codes |= zip(clips, said(model, sequences, np.random.default_rng([recipe.seed, number])), strict=True)
        if progress is not None:
            progress(len(codes), len(wanted))
    write_codes(codes, output)
    return len(codes)


def _batches(
    mixture: Mixture, wanted: Sequence[Utterance], positions: int
) -> Iterator[tuple[list[str], list[TokenSequence]]]:
    """Clip ids and their sequences, about `positions` at a time; clips of like length together."""
    clips: list[str] = []
    sequences: list[TokenSequence] = []
    for found in sorted(wanted, key=lambda found: mixture.codes(found.clip).shape[1]):
        clips.append(found.clip)
        sequences.append(mixture.read_aloud(found))
        if sum(map(len, sequences)) >= positions:
            yield clips, sequences
            clips, sequences = [], []
    if clips:
        yield clips, sequences


@torch.inference_mode()
def said(model: BaichuanAudio, sequences: Sequence[TokenSequence], rng: np.random.Generator) -> list[Tensor]:
    """The frames [K, T] of each sequence, drawn by the model after the true ones before them."""
    language_model, head = model.language_model, model.audio_head
    sizes = head.codebook_sizes
    batch = collate(sequences, model.special.end_of_text, model.special.audio_pad, sizes)
    hidden = language_model.hidden(language_model.embed(batch.ids, batch.codes)).flatten(0, 1)
    states = hidden[batch.frame_at[batch.frames[:, 0] != sizes[0]]]  # where the audio does not end

    def choose(level: int, rows: list[int], logits: Tensor) -> list[int]:
        return draw(logits[:, : sizes[level]].float(), rng).tolist()

    frames, _ = head.frames(states, head.init_cache(len(states)), choose)
    drawn = torch.tensor([frame for frame in frames if frame is not None]).T
    return list(drawn.split([sequence.codes.shape[1] for sequence in sequences], dim=1))

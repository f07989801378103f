"""Codes of a corpus as the language model says them: frame by frame, each after the true ones before it.

What turns codes into sound learns from them to make clear speech of what the model says, which is less certain than
what the encoder hears: its later codes are seldom the encoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.mixture.mixture import Mixture
from ...data.mixture.weighted_sampling import Utterance
from ...data.sequences import TokenSequence
from ...data.store.codes_store import CODES_FILE, CodesStore, Throttle, write_codes
from ...errors import DataError
from ...layers.precision import autocast
from ...model import BaichuanAudio
from .batch import collate
from .data import make_mixture
from .recipe import LanguageModelRecipe

_TEMPERATURE = 0.25  # near that at which a small model speaks


def sampling_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio) -> Mixture:
    """The recipe's training clips, to be read aloud and nothing else."""
    mixture = replace(recipe.mixture, tasks={"tts": 1.0}, final_task_weights=None)
    alone = replace(recipe, mixture=mixture, additional_codes=(), takes=None)
    return make_mixture(alone, model, "train")


def sample_codes(
    model: BaichuanAudio,
    mixture: Mixture,
    output: str | Path,
    count: int | None = None,
    positions: int = 3072,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Store the codes of clips in the output voices, `count` of them (None: all), in `output` -> how many are there.

    What was found is written every minute, so a stopped run goes on where it was. `progress(done, all)`. Raises
    DataError when no clip is in an output voice.
    """
    spoken = {u.clip: u for found in mixture.by_name.values() for u in found if u.voice is not None}
    if not spoken:
        raise DataError("no transcribed clip with codes is in one of the model's voices.")
    chosen = np.random.default_rng((seed, 8)).permutation(sorted(spoken))[:count].tolist()
    found: dict[str, Tensor] = {}
    if (Path(output) / CODES_FILE).is_file():
        old = CodesStore(output)
        found = {clip: old[clip] for clip in chosen if clip in old}
    todo = [spoken[clip] for clip in chosen if clip not in found]
    seen, save = len(found), Throttle()
    for together in _batches(mixture, todo, positions, seed):
        codes = _say(model, [sequence for _, sequence in together], seed + seen)
        lengths = [int(sequence.codes.shape[1]) for _, sequence in together]
        found |= {u.clip: said for (u, _), said in zip(together, codes.split(lengths, dim=1), strict=True)}
        seen += len(together)
        if progress is not None:
            progress(seen, len(chosen))
        if save.due():
            write_codes(found, output)
    write_codes(found, output)
    return len(found)


def _batches(
    mixture: Mixture, utterances: Sequence[Utterance], positions: int, seed: int
) -> Iterator[list[tuple[Utterance, TokenSequence]]]:
    """Utterances as sequences of reading aloud, of like length together, about `positions` in all."""
    rng = np.random.default_rng((seed, 9))
    together: list[tuple[Utterance, TokenSequence]] = []
    for utterance in sorted(utterances, key=lambda u: mixture.codes(u.clip).shape[1]):
        together.append((utterance, mixture.read_aloud(utterance, rng)))
        if len(together) * len(together[-1][1]) > positions:
            yield together
            together = []
    if together:
        yield together


@torch.no_grad()
def _say(model: BaichuanAudio, said: Sequence[TokenSequence], seed: int) -> Tensor:
    """Codes [K, P] that the model draws for the P frames of sequences in which all audio is its own."""
    language_model, head = model.language_model, model.audio_head
    sizes, device = language_model.codebook_sizes, next(language_model.parameters()).device
    batch = collate(said, model.special.end_of_text, model.special.audio_pad, sizes).to(str(device))
    generator = torch.Generator().manual_seed(seed)
    with autocast(str(device)):
        hidden = language_model.hidden(language_model.embed(batch.ids, batch.codes)).flatten(0, 1)
        states = hidden[batch.frame_at[batch.frames[:, 0] != sizes[0]]]  # all but the ends of the audio
        drawn = torch.empty(len(states), 0, dtype=torch.long, device=device)
        for size in sizes:
            logits = head.logits_at(states, drawn)[:, :size].float()
            noise = -torch.empty(logits.shape).exponential_(generator=generator).log().to(device)
            drawn = torch.cat([drawn, (logits + _TEMPERATURE * noise).argmax(dim=1)[:, None]], dim=1)
    return drawn.T.cpu()

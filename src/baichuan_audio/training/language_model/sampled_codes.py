"""Codes of a dataset sampled from the language model with teacher forcing, each frame after the true ones before it.

The decoder is finetuned on them: the later codebooks of sampled frames differ from the encoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.mixture.mixture import Mixture
from ...data.mixture.tasks import read_aloud
from ...data.mixture.weighted_sampling import Utterance
from ...data.sequences import TokenSequence
from ...data.store.codes_store import CODES_FILE, CodesStore, Throttle, write_codes
from ...errors import ConfigError, DataError
from ...layers.precision import autocast
from ...model import BaichuanAudio
from .batch import collate
from .data import make_mixture
from .recipe import LanguageModelRecipe

_TEMPERATURE = 0.25  # near that of inference with a small model


def sampling_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio) -> Mixture:
    """The recipe's training clips for tts only."""
    if recipe.mixture is None:
        raise ConfigError("sampling codes needs a recipe with `mixture`, whose clips are read aloud.")
    mixture = replace(recipe.mixture, tasks={"tts": 1.0}, final_task_weights=None)
    alone = replace(recipe, mixture=mixture, additional_codes=(), takes=None)
    return make_mixture(alone, model, "train")


def sample_codes(
    model: BaichuanAudio,
    mixture: Mixture,
    output: str | Path,
    count: int | None = None,
    tokens_per_batch: int = 3072,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Store the codes of clips in the output voices, `count` of them (None: all), in `output` -> how many are there.

    The file is written every minute, so a stopped run is continued. `progress(done, all)`. Raises
    DataError when no clip is in an output voice.
    """
    by_speaker = mixture.context.samplers.by_speaker
    utterances = {u.clip: u for group in by_speaker.values() for u in group if u.voice is not None}
    if not utterances:
        raise DataError("no transcribed clip with codes is in one of the model's voices.")
    chosen = np.random.default_rng((seed, 8)).permutation(sorted(utterances))[:count].tolist()
    codes: dict[str, Tensor] = {}
    if (Path(output) / CODES_FILE).is_file():
        old = CodesStore(output)
        codes = {clip: old[clip] for clip in chosen if clip in old}
    missing = [utterances[clip] for clip in chosen if clip not in codes]
    seen, save = len(codes), Throttle()
    for batch in _batches(mixture, missing, tokens_per_batch, seed):
        sampled = _sample(model, [sequence for _, sequence in batch], seed + seen)
        lengths = [int(sequence.codes.shape[1]) for _, sequence in batch]
        codes |= {u.clip: frames for (u, _), frames in zip(batch, sampled.split(lengths, dim=1), strict=True)}
        seen += len(batch)
        if progress is not None:
            progress(seen, len(chosen))
        if save.due():
            write_codes(codes, output)
    write_codes(codes, output)
    return len(codes)


def _batches(
    mixture: Mixture, utterances: Sequence[Utterance], tokens_per_batch: int, seed: int
) -> Iterator[list[tuple[Utterance, TokenSequence]]]:
    """Utterances as tts sequences in batches of similar length, about `tokens_per_batch` positions each."""
    rng = np.random.default_rng((seed, 9))
    batch: list[tuple[Utterance, TokenSequence]] = []
    for utterance in sorted(utterances, key=lambda u: mixture.context.data.codes(u.clip).shape[1]):
        batch.append((utterance, read_aloud(mixture.context, utterance, rng)))
        if len(batch) * len(batch[-1][1]) > tokens_per_batch:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def _sample(model: BaichuanAudio, sequences: Sequence[TokenSequence], seed: int) -> Tensor:
    """Codes [K, P] sampled for the P frames of sequences in which all audio is generated."""
    language_model, head = model.language_model, model.audio_head
    sizes, device = language_model.codebook_sizes, next(language_model.parameters()).device
    batch = collate(sequences, model.special.end_of_text, model.special.audio_pad, sizes).to(str(device))
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

"""What a stage of the language model reads, hears and says: its recipe's data as a mixture of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ...data.alignment.phone_alignment import read_alignments, training_alignments
from ...data.alignment.token_alignment import ReadAlong
from ...data.dialogues import Dialogue, read_dialogues
from ...data.mixture.mixture import Mixture, spoken_words
from ...data.mixture.pseudo_speech import PseudoSpeech, with_pseudo_clips
from ...data.mixture.takes import read_takes
from ...data.mixture.weighted_sampling import Utterance
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import Clip, ClipStore
from ...errors import TrainingError
from ...generation.interleaving import interleave_min_letters
from ...model import BaichuanAudio
from .batch import Batch, collate
from .recipe import LanguageModelRecipe


def make_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> Mixture:
    """The recipe's tasks over one split of its data."""
    if recipe.pseudo_speech:
        return pseudo_mixture(recipe, model, split)
    codes = CodesStore(recipe.codes) if recipe.codes else None
    dialogues = dialogues_of(recipe, split)
    complete = [d for d in dialogues if codes is not None and d.clips and all(clip in codes for clip in d.clips)]
    return Mixture(
        recipe.mixture,
        model.text_tokenizer,
        model.special,
        model.language_model.codebook_sizes,
        codes.__getitem__ if codes is not None else _no_codes,
        dialogues,
        complete,
        utterances_of(recipe, codes, dialogues, split, set(model.config.get("voices") or ())),
        read_along_of(recipe, model),
        [CodesStore(folder) for folder in recipe.additional_codes],
        interleave_min_letters(model.config),
        read_takes(recipe.takes) if recipe.takes and split == "train" else (),
    )


def read_along_of(recipe: LanguageModelRecipe, model: BaichuanAudio) -> ReadAlong | None:
    """By the alignments of the corpus, where the recipe wants reading along or the model speaks word by word."""
    wants = {
        "read_along": recipe.read_along,
        "sounds": recipe.sounds,
        "interleave_min_letters": interleave_min_letters(model.config),
    }
    wanted = next((name for name, wish in wants.items() if wish), None)
    if not recipe.codes or wanted is None:
        return None
    if recipe.clips is None:
        raise TrainingError(f"{wanted} takes the times of sounds from the alignments in `clips`: name that folder.")
    return ReadAlong(model.text_tokenizer, read_alignments(recipe.clips).get, model.tokenizer.frame_rate)


def _no_codes(clip: str) -> Tensor:
    raise TrainingError(f"the recipe names no codes, but a task asks for those of clip '{clip}'.")


def pseudo_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> Mixture:
    """The recipe's tasks over its dialogues with stand-in codes."""
    texts = dialogues_of(recipe, split)
    sizes = model.language_model.codebook_sizes
    dialogues = [with_pseudo_clips(dialogue) for dialogue in texts if dialogue.is_verbalized]
    utterances = []
    for found in dialogues:
        for exchange in found.exchanges:
            said = [
                (exchange.user, exchange.user_clip, None),
                *((text, clip, found.voice) for text, clip in exchange.reply),
            ]
            for text, clip, voice in said:
                words = spoken_words(text)
                if clip and words:
                    utterances.append(Utterance(clip, words, voice, "answer" if voice else "question", text.strip()))
    if recipe.clips is None:
        raise TrainingError(
            "pseudo_speech takes the lengths of sounds from the alignments in `clips`: name that folder."
        )
    speech = PseudoSpeech(sizes, training_alignments(recipe.clips).values())
    letters = interleave_min_letters(model.config)
    along = None
    if recipe.read_along or recipe.sounds or letters:
        along = ReadAlong(model.text_tokenizer, speech.alignment, model.tokenizer.frame_rate)
    codes = speech.__getitem__
    data = (codes, texts, dialogues, utterances, along)
    return Mixture(recipe.mixture, model.text_tokenizer, model.special, sizes, *data, interleave_min_letters=letters)


def utterances_of(
    recipe: LanguageModelRecipe, codes: CodesStore | None, dialogues: Sequence[Dialogue], split: str, voices: set[str]
) -> list[Utterance]:
    """The transcribed clips of one split that have codes and are not too long."""
    if codes is None or not recipe.clips:
        return []
    written = {clip: text.strip() for d in dialogues for e in d.exchanges for text, clip in e.reply if clip}
    return [
        Utterance(
            clip.id,
            clip.transcript,
            clip.speaker if clip.speaker in voices else None,
            kind_of(clip),
            written.get(clip.id),
            clip.speaker if clip.source == "synthetic" else None,
        )
        for clip in ClipStore(recipe.clips).select(split=split)
        if clip.transcript and clip.id in codes and clip.language in recipe.languages
        if codes[clip.id].shape[1] <= (recipe.mixture.longest or 1 << 30)
    ]


def kind_of(clip: Clip) -> str:
    """What `MixtureConfig.kinds` weighs: the source of a real clip, the kind of a synthetic one."""
    return clip.source if clip.kind == "real" else clip.kind


def dialogues_of(recipe: LanguageModelRecipe, split: str) -> list[Dialogue]:
    """One split of the recipe's dialogue files, in their order."""
    found = [dialogue for path in recipe.dialogues for dialogue in read_dialogues(path, (split,))]
    return [dialogue for dialogue in found if dialogue.language in recipe.languages]


def validation_batches(recipe: LanguageModelRecipe, model: BaichuanAudio) -> list[Batch]:
    """Sequences of the validation split, the same in every run; none where the recipe asks for none."""
    if not recipe.validation_sequences:
        return []
    recorded = replace(recipe, mixture=replace(recipe.mixture, woven=0.0, retold=0.0))  # too few clips to weave of
    mixture = make_mixture(recorded, model, "validation")
    rng = np.random.default_rng([recipe.seed, 2])
    drawn = sorted((mixture.draw(rng) for _ in range(recipe.validation_sequences)), key=len)
    sizes = model.language_model.codebook_sizes
    return [
        collate(drawn[start : start + 16], model.special.end_of_text, model.special.audio_pad, sizes).to(recipe.device)
        for start in range(0, len(drawn), 16)
    ]

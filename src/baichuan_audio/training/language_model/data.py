"""The data of a language model recipe as a mixture of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...data.alignment.phone_alignment import read_alignments
from ...data.alignment.token_alignment import TokenAligner
from ...data.dialogues import Dialogue, read_dialogues
from ...data.mixture.mixture import Mixture
from ...data.mixture.samplers import MixtureData
from ...data.mixture.tasks import SequenceFormat
from ...data.mixture.weighted_sampling import Utterance
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import Clip, ClipStore
from ...errors import ConfigError
from ...generation.interleaving import interleave_min_letters
from ...model import BaichuanAudio
from ..common.clip_sampling import clip_source
from .recipe import LanguageModelRecipe


def make_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> Mixture:
    """The recipe's tasks over one split of its data; raises ConfigError where it has none."""
    if recipe.mixture is None:
        raise ConfigError("this needs tasks: name them under `mixture`.")
    return Mixture(recipe.mixture, sequence_format(model), recorded_data(recipe, model, split))


def sequence_format(model: BaichuanAudio) -> SequenceFormat:
    """The layout of a model's sequences."""
    sizes = model.language_model.codebook_sizes
    return SequenceFormat(model.text_tokenizer, model.special, sizes, interleave_min_letters(model.config))


def recorded_data(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> MixtureData:
    """The recipe's dialogues and clips of one split, with their codes."""
    codes = CodesStore(recipe.codes) if recipe.codes else None
    dialogues = dialogues_of(recipe, split)
    return MixtureData(
        codes=codes.__getitem__ if codes is not None else _no_codes,
        texts=dialogues,
        dialogues=[d for d in dialogues if codes is not None and d.clips and all(clip in codes for clip in d.clips)],
        utterances=utterances_of(recipe, codes, dialogues, split, set(model.config.get("voices") or ())),
        aligner=token_aligner_of(recipe, model),
    )


def token_aligner_of(recipe: LanguageModelRecipe, model: BaichuanAudio) -> TokenAligner | None:
    """By the dataset's alignments, where the model alternates text and speech by runs of words; else None."""
    if not recipe.codes or not interleave_min_letters(model.config):
        return None
    if recipe.clip_store is None:
        raise ConfigError("interleave_min_letters needs the alignments of `dataset`: name that folder.")
    return TokenAligner(model.text_tokenizer, read_alignments(recipe.clip_store).get, model.tokenizer.frame_rate)


def _no_codes(clip: str) -> Tensor:
    raise ConfigError(f"the recipe names no `codes`, but a task needs those of clip '{clip}'.")


def utterances_of(
    recipe: LanguageModelRecipe, codes: CodesStore | None, dialogues: Sequence[Dialogue], split: str, voices: set[str]
) -> list[Utterance]:
    """The transcribed clips of one split that have codes and are not too long."""
    if codes is None or not recipe.clip_store:
        return []
    longest = 0 if recipe.mixture is None else recipe.mixture.max_frames
    weights = {} if recipe.mixture is None else recipe.mixture.source_weights
    reply_texts = {clip: text.strip() for d in dialogues for e in d.exchanges for text, clip in e.reply if clip}
    utterances = [
        Utterance(
            clip.id,
            clip.transcript,
            clip.speaker if clip.speaker in voices else None,
            source_of(clip, weights),
            reply_texts.get(clip.id),
        )
        for clip in ClipStore(recipe.clip_store).select(split=split)
        if clip.transcript and clip.id in codes and clip.language in recipe.languages
        if codes[clip.id].shape[1] <= (longest or 1 << 30)
    ]
    sources = {utterance.source for utterance in utterances}
    if split == "train" and (unused := [name for name in weights if name not in sources]):
        raise ConfigError(
            f"source_weights names {unused[0]}, but no clip has that source, kind or speaker; there are "
            f"{', '.join(sorted(sources))}."
        )
    return utterances


def source_of(clip: Clip, source_weights: Mapping[str, float]) -> str:
    """The entry of `source_weights` for a clip; where there is none a real clip's source, a synthetic one's kind."""
    named = clip_source(clip, source_weights) if source_weights else None
    return named or (clip.source if clip.kind == "real" else clip.kind)


def dialogues_of(recipe: LanguageModelRecipe, split: str) -> list[Dialogue]:
    """One split of the recipe's dialogue files, in their order."""
    dialogues = [dialogue for path in recipe.dialogues for dialogue in read_dialogues(path, (split,))]
    return [dialogue for dialogue in dialogues if dialogue.language in recipe.languages]

"""Measurements while the language model trains: held-out losses and accuracies, and guards of what it could before.

A model that learns to speak may forget to write or to transcribe. The guards are files named in the recipe, the same
through all stages, so that forgetting is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...audio.reading import read_audio
from ...data import sequences
from ...data.dialogues import read_dialogues
from ...data.importers import read_manifest
from ...data.pipeline.spoken_units import edit_distance, spoken
from ...data.sequences import SequenceBuilder, TokenSequence, Turn
from ...errors import DataError
from ...generation.events import TextDelta
from ...generation.runner import run_program
from ...generation.transcription import transcription, transcription_prompt
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...layers.precision import autocast
from ...model import BaichuanAudio
from ...text.lines import read_lines
from .batch import Batch
from .losses import LossMeter, losses
from .recipe import LanguageModelRecipe
from .steps import Collator, validation_batches

_BATCH = 16


class Validation:
    """What is measured at every `sample_every`: the validation split, a text guard and an ASR guard.

    Raises DataError where a guard's file is missing or holds nothing.
    """

    def __init__(self, recipe: LanguageModelRecipe, model: BaichuanAudio) -> None:
        self._model, self._device = model, recipe.device
        self._batches = validation_batches(recipe, model)
        self._text = text_guard(recipe.text_guard, model, recipe.device) if recipe.text_guard else []
        self._recordings = [] if not recipe.asr_guard or recipe.stage == "text" else asr_guard(recipe.asr_guard, model)

    def measure(self) -> dict[str, float]:
        """`validation/<loss>`, `validation/<kind>/<loss>` and their accuracies, and the guards."""
        parts = self._model.language_model, self._model.audio_head
        return validate(*parts, self._batches, self._device) | self.guards()

    def guards(self) -> dict[str, float]:
        """`guard/text`, `guard/text_accuracy` and `guard/asr_error`, as far as the recipe names guards."""
        parts = self._model.language_model, self._model.audio_head
        guard = validate(*parts, self._text, self._device)
        values = {f"guard/{name}": guard[f"validation/{name}"] for name in ("text", "text_accuracy") if guard}
        if self._recordings:
            values["guard/asr_error"] = asr_error(self._model, self._recordings)
        return values


@torch.inference_mode()
def validate(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batches: Sequence[Batch],
    device: str = "cpu",
) -> dict[str, float]:
    """The mean of each loss over all targets of the batches, as `validation/text` and so on, in all and by kind."""
    meter = LossMeter()
    with autocast(device):
        for batch in batches:
            meter.add(losses(language_model, audio_head, batch), batch, by_kind=True)
    return {f"validation/{name}": value for name, value in meter.means().items()}


def text_guard(path: str, model: BaichuanAudio, device: str) -> list[Batch]:
    """Batches of the texts of a `.txt` file, each line learnt as a whole, or of the replies of a dialogue file."""
    builder = SequenceBuilder(model.text_tokenizer, model.special, len(model.language_model.codebook_sizes))
    rows = [sequence for sequence in _guard_sequences(path, model, builder) if sequence.text_loss.any()]
    if not rows:
        raise DataError(f"{path}: holds no text; name another file as `text_guard`.")
    collator = Collator(model)
    rows.sort(key=len)
    return [collator(rows[start : start + _BATCH]).to(device) for start in range(0, len(rows), _BATCH)]


def _guard_sequences(path: str, model: BaichuanAudio, builder: SequenceBuilder) -> Iterator[TokenSequence]:
    if Path(path).suffix == ".txt":
        for _, line in read_lines(path):
            builder.text(line.strip(), learn=True)
            yield builder.finish()
        return
    for dialogue in read_dialogues(path, ("train", "validation", "test")):
        turns = [Turn(exchange.user, [(text, None) for text, _ in exchange.reply]) for exchange in dialogue.exchanges]
        yield sequences.dialogue(builder, model.system_text(None, None), turns, spoken=False)


def asr_guard(path: str, model: BaichuanAudio) -> list[tuple[Tensor, str, str]]:
    """Codes [K, T], language and transcript of a manifest's recordings."""
    rate = model.tokenizer.config.sampling_rate
    recordings = []
    for recording in read_manifest(path):
        if recording.transcript:
            waveform, _ = read_audio(recording.path, rate)
            codes = model.tokenizer.encode(torch.as_tensor(waveform), rate)
            recordings.append((codes, recording.language, recording.transcript))
    if not recordings:
        raise DataError(f"{path}: no recording has a transcript; name another manifest as `asr_guard`.")
    return recordings


@torch.no_grad()
def asr_error(model: BaichuanAudio, recordings: Sequence[tuple[Tensor, str, str]]) -> float:
    """Errors a word (Mandarin: a character) of the model's transcripts, over all recordings together."""
    errors = count = 0
    for codes, language, transcript in recordings:
        prompt = transcription_prompt(model.prompt_builder(), codes)
        session = model.start(prompt.ids, prompt.codes)
        events = run_program(session, transcription(session, model.text_tokenizer, codes))
        written = "".join(event.text for event in events if isinstance(event, TextDelta))
        reference = spoken(transcript, language)
        errors += edit_distance(reference, spoken(written, language))
        count += len(reference)
    return errors / max(1, count)

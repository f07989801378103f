"""Samples of the language model while it trains: replies to validation questions, spoken once it learns audio.

Spoken replies are read back by a recogniser, and their voice is compared with how it began: a falling loss does not say
that there is speech.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...audio.mel import FLOW_MEL, natural_log_mel
from ...audio.waveform import resample
from ...checkpoint import load
from ...data.pipeline.audio_access import ANALYSIS_RATE, Samples
from ...data.pipeline.backends.asr import Recogniser
from ...data.pipeline.backends.registry import load_backend
from ...data.pipeline.spoken_units import edit_distance, spoken
from ...data.store.shards import ShardReader
from ...errors import MissingDependencyError, TrainingError
from ...generation.events import TextDelta
from ...generation.reply import ReplySampling
from ...model import BaichuanAudio
from ..common.logging import TrainingLog
from .data import dialogues_of
from .recipe import LanguageModelRecipe

_PER_LANGUAGE = 2  # questions
_READ_BACK_S = 20.0  # of a reply at most
_LIMITS = {"max_segments": 16, "max_segment_frames": 50, "max_text_tokens": 60}  # an untrained model never ends


class LanguageModelSamples:
    """A few validation questions of each language, and the model with a decoder to answer them.

    A `preview_decoder` that does not exist yet is looked for before each reply; until it exists, replies are text only.
    Raises TrainingError when it has other codebooks than the model.
    """

    def __init__(self, recipe: LanguageModelRecipe, model: BaichuanAudio) -> None:
        self._recipe, self._model = recipe, model
        self._speaking: BaichuanAudio | None = None
        self._speaks = recipe.stage != "text"
        self._find_decoder()
        if self._speaks and self._speaking is None:
            print(f"{recipe.preview_decoder}: does not exist yet; until then samples are text only", file=sys.stderr)
        self._questions = list(_questions(recipe, model))
        self._readers = [] if not self._speaks else list(_installed(recipe.read_back))
        usual = ReplySampling.from_config(model.config)
        shorter = {name: min(most, getattr(usual, name)) for name, most in _LIMITS.items()}
        self._sampling = dataclasses.replace(usual, **shorter)

    def _find_decoder(self) -> None:
        if not self._speaks or self._speaking is not None:
            return
        decoder = self._recipe.preview_decoder
        if decoder is None:
            self._speaking = self._model
        elif Path(decoder).is_dir():
            self._speaking = with_decoder(self._model, self._recipe)

    @torch.no_grad()
    def log(self, step: int, log: TrainingLog) -> None:
        """Ask as text and log the reply's text, sound and mel; leaves all random generators as they were.

        Also logged: `samples/asr_error`, errors a word of what a recogniser understands of the spoken replies, against
        their own texts; `samples/speaker_similarity`, the mean cosine of a reply's beginning and its later seconds.
        """
        errors = count = 0
        similarities: list[float] = []
        with torch.random.fork_rng():
            self._find_decoder()
            for name, language, question, reference in self._questions:
                text, waveform = self._reply(question)
                lines = [question, text, f"(reference: {reference})"]
                rate = (self._speaking or self._model).sample_rate
                if len(waveform) >= FLOW_MEL.n_fft:
                    log.audio(step, name, waveform, rate)
                    log.mel(step, name, natural_log_mel(waveform[None], FLOW_MEL)[0])
                    samples = resample(waveform, rate, ANALYSIS_RATE).cpu().numpy()
                    similarities += _similarity(samples)
                    understood = self._read_back(samples, language)
                    if understood is not None:
                        lines.append(f"(understood: {understood})")
                        written = spoken(text, language)
                        errors += edit_distance(written, spoken(understood, language))
                        count += len(written)
                log.text(step, name, "\n".join(lines) + "\n")
        values = {"samples/asr_error": errors / count} if count else {}
        if similarities:
            values["samples/speaker_similarity"] = sum(similarities) / len(similarities)
        if values:
            log.scalars(step, values)

    def _reply(self, question: str) -> tuple[str, Tensor]:
        """The reply's text and waveform [S], empty where it is text only."""
        model = self._speaking or self._model
        conversation = model.conversation(speak=self._speaking is not None, sampling=self._sampling, seed=0)
        text, waveforms = "", [torch.zeros(0)]
        for piece in conversation.ask(question):
            if isinstance(piece, TextDelta):
                text += piece.text
            else:
                waveforms.append(piece.waveform.float().cpu())
        return text, torch.cat(waveforms)

    def _read_back(self, samples: Samples, language: str) -> str | None:
        """What the first recogniser that writes the language understands of samples [S] at 16 kHz."""
        for reader in self._readers:
            hypothesis = reader(samples[: round(_READ_BACK_S * ANALYSIS_RATE)], language)
            if hypothesis is not None:
                return hypothesis.text
        return None


def _questions(recipe: LanguageModelRecipe, model: BaichuanAudio) -> Iterator[tuple[str, str, str, str]]:
    """Name, language, question and reference of some held-out dialogues of each language, in files and in shards."""
    counts: Counter[str] = Counter()
    asked = [
        (dialogue.language, dialogue.exchanges[0].user, dialogue.exchanges[0].answer)
        for dialogue in dialogues_of(recipe, "validation")
    ]
    for shards in recipe.shards:
        asked += _stored_questions(shards.path)
    for language, question, reference in asked:
        if question.strip() and counts[language] < _PER_LANGUAGE:  # one that is audio only cannot be asked as text
            counts[language] += 1
            number = f"-{counts[language]}" if counts[language] > 1 else ""
            yield f"answer-{language}{number}", language, question, reference


def _stored_questions(folder: str) -> Iterator[tuple[str, str, str]]:
    """Language, first question and its reply of the held-out dialogues of a folder of shards."""
    reader = ShardReader(folder)
    for entry in reader.entries:
        if entry.kind == "sft" and entry.split == "validation":
            segments = reader.sample(entry).segments
            users = [segment.text for segment in segments if segment.role == "user"]
            replies = [segment.text for segment in segments if segment.role == "reply" and segment.kind == "text"]
            if users:
                yield entry.language, users[0], "".join(replies)


def _installed(names: Sequence[str]) -> Iterator[Recogniser]:
    """The recognisers that can be loaded; why another cannot is said once."""
    for name in names:
        try:
            yield load_backend("asr", name)
        except MissingDependencyError as error:
            print(f"samples are not read back by {name}: {error}", file=sys.stderr)


def _similarity(samples: Samples) -> list[float]:
    """[cosine of the voice at the beginning of samples [S] at 16 kHz and later]; [] where they are too few or the
    encoder is not installed."""
    try:
        encoder = load_backend("speakers", "resemblyzer")
    except MissingDependencyError:
        return []
    size = round(encoder.window_s * ANALYSIS_RATE)
    windows = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    if len(windows) < 2:
        return []
    first, *later = encoder(windows)
    return [float(sum(first @ other for other in later) / len(later))]


def with_decoder(model: BaichuanAudio, recipe: LanguageModelRecipe) -> BaichuanAudio:
    """`recipe.preview_decoder` with the language model that is being trained in place of its own."""
    assert recipe.preview_decoder is not None
    decoder = load(recipe.preview_decoder, dtype=torch.float32, device=recipe.device)
    if decoder.audio_head.codebook_sizes != model.audio_head.codebook_sizes:
        raise TrainingError(
            f"{recipe.preview_decoder}: its codebooks have other sizes than those of {recipe.init_from}."
        )
    decoder.language_model, decoder.audio_head = model.language_model, model.audio_head
    decoder.text_tokenizer, decoder.special, decoder.config = model.text_tokenizer, model.special, model.config
    return decoder

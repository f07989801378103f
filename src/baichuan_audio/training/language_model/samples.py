"""Samples of the language model while it trains: replies to validation questions, spoken once it learns audio."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from ...audio.mel import FLOW_MEL, natural_log_mel
from ...checkpoint import load
from ...data.dialogues import Dialogue
from ...errors import TrainingError
from ...generation.reply import ReplySampling
from ...model import BaichuanAudio, TextPiece
from ..common.logging import TrainingLog
from .data import dialogues_of
from .recipe import LanguageModelRecipe

_LIMITS = {"max_segments": 16, "max_segment_frames": 50, "max_text_tokens": 60}  # an untrained model never ends


class LanguageModelSamples:
    """One validation question of each language, and the model with a decoder to answer it.

    A `preview_decoder` that does not exist yet is looked for before each reply; until it exists, replies are text only.
    Raises TrainingError when it has other codebooks than the model.
    """

    def __init__(self, recipe: LanguageModelRecipe, model: BaichuanAudio) -> None:
        self._recipe, self._model = recipe, model
        self._speaking: BaichuanAudio | None = None
        self._speaks = recipe.stage != "text" and not recipe.pseudo_speech
        self._find_decoder()
        if self._speaks and self._speaking is None:
            print(f"{recipe.preview_decoder}: does not exist yet; until then samples are text only", file=sys.stderr)
        first: dict[str, Dialogue] = {}
        for dialogue in dialogues_of(recipe, "validation"):
            if dialogue.exchanges[0].user.strip():  # one that is audio only cannot be asked as text
                first.setdefault(dialogue.language, dialogue)
        self._questions = [(language, dialogue.exchanges[0]) for language, dialogue in first.items()]
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
        """Ask as text and log the reply's text, sound and mel; leaves all random generators as they were."""
        with torch.random.fork_rng():
            self._find_decoder()
            model = self._speaking or self._model
            for language, exchange in self._questions:
                conversation = model.conversation(speak=self._speaking is not None, sampling=self._sampling, seed=0)
                text, waveforms = "", []
                for piece in conversation.ask(exchange.user):
                    if isinstance(piece, TextPiece):
                        text += piece.text
                    else:
                        waveforms.append(piece.waveform.float())
                log.text(step, f"answer-{language}", f"{exchange.user}\n{text}\n(reference: {exchange.answer})\n")
                waveform = torch.cat(waveforms) if waveforms else torch.zeros(0)
                if len(waveform) >= FLOW_MEL.n_fft:
                    log.audio(step, f"answer-{language}", waveform, model.sample_rate)
                    log.mel(step, f"answer-{language}", natural_log_mel(waveform[None], FLOW_MEL)[0])


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

"""What the language model says while it trains: answers to held-out questions, aloud once it learns audio."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from ...audio.mel import FLOW_MEL, natural_log_mel
from ...checkpoint import load
from ...data.dialogues import Dialogue
from ...errors import TrainingError
from ...generation.events import TextDelta
from ...generation.reply import ReplySampling
from ...model import BaichuanAudio
from ..common.logging import TrainingLog
from .data import dialogues_of
from .recipe import LanguageModelRecipe

_LONGEST = {"max_segments": 16, "max_segment_frames": 50, "max_text_tokens": 60}  # an untrained model never ends


class LanguageModelSamples:
    """One held-out question of each language, and the model with a voice to answer it.

    A `speaker` that is not there yet (its training runs beside this one) is looked for before each answer; until it
    is there, answers are in writing. Raises TrainingError when it has other codebooks than the model.
    """

    def __init__(self, recipe: LanguageModelRecipe, model: BaichuanAudio) -> None:
        self._recipe, self._written = recipe, model
        self._aloud: BaichuanAudio | None = None
        self._speaks = recipe.stage != "text" and not recipe.pseudo_speech
        self._find_voice()
        if self._speaks and self._aloud is None:
            print(f"{recipe.speaker}: not there yet; until it is, samples are in writing", file=sys.stderr)
        first: dict[str, Dialogue] = {}
        for dialogue in dialogues_of(recipe, "validation"):
            if dialogue.exchanges[0].user.strip():  # one that is only heard cannot be asked in writing
                first.setdefault(dialogue.language, dialogue)
        self._questions = [(language, dialogue.exchanges[0]) for language, dialogue in first.items()]
        usual = ReplySampling.from_config(model.config)
        shorter = {name: min(most, getattr(usual, name)) for name, most in _LONGEST.items()}
        self._sampling = dataclasses.replace(usual, **shorter)

    def _find_voice(self) -> None:
        if not self._speaks or self._aloud is not None:
            return
        speaker = self._recipe.speaker
        if speaker is None:
            self._aloud = self._written
        elif Path(speaker).is_dir():
            self._aloud = with_voice(self._written, self._recipe)

    @torch.no_grad()
    def log(self, step: int, log: TrainingLog) -> None:
        """Ask, in writing, and keep the answer's text, sound and mel; leaves all random generators as they were."""
        with torch.random.fork_rng():
            self._find_voice()
            model = self._aloud or self._written
            for language, exchange in self._questions:
                asked = model.conversation(speak=self._aloud is not None, sampling=self._sampling, seed=0)
                written, sounds = "", []
                for piece in asked.ask(exchange.user):
                    if isinstance(piece, TextDelta):
                        written += piece.text
                    else:
                        sounds.append(piece.waveform.float())
                log.text(step, f"answer-{language}", f"{exchange.user}\n{written}\n(wanted: {exchange.answer})\n")
                sound = torch.cat(sounds) if sounds else torch.zeros(0)
                if len(sound) >= FLOW_MEL.n_fft:
                    log.audio(step, f"answer-{language}", sound, model.sample_rate)
                    log.mel(step, f"answer-{language}", natural_log_mel(sound[None], FLOW_MEL)[0])


def with_voice(model: BaichuanAudio, recipe: LanguageModelRecipe) -> BaichuanAudio:
    """`recipe.speaker` with the language model that is being trained in place of its own."""
    assert recipe.speaker is not None
    speaker = load(recipe.speaker, dtype=torch.float32, device=recipe.device)
    if speaker.audio_head.codebook_sizes != model.audio_head.codebook_sizes:
        raise TrainingError(f"{recipe.speaker}: its codebooks have other sizes than those of {recipe.model}.")
    speaker.language_model, speaker.audio_head = model.language_model, model.audio_head
    speaker.text_tokenizer, speaker.special, speaker.config = model.text_tokenizer, model.special, model.config
    return speaker

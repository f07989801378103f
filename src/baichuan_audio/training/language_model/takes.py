"""Rejection sampling: a model reads texts aloud several times, and the reading with the lowest CTC loss is kept.

The scorer is the phonetic head of the stage `tokenizer`, applied to the codes' vectors; nothing is decoded to sound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...audio_tokenizer.quantizer import dequantize
from ...data.mixture.takes import TAKES_FILE, Take, read_rejected, read_takes, write_takes
from ...data.store.codes_store import Throttle
from ...errors import DataError
from ...generation.events import SegmentEnd
from ...generation.reply import ReplySampling, read_aloud
from ...generation.runner import run_program
from ...language_model.sampling import Sampling
from ...model import BaichuanAudio
from ...text.language import voice_language
from ...text.phonemes import phonetic_symbols
from ..tokenizer.text_loss import ctc_nll, phoneme_errors, trained_head
from .data import dialogues_of
from .recipe import LanguageModelRecipe

_VARIED = Sampling(temperature=0.5, top_k=24, top_p=0.95)  # of all readings but the first
_MAX_ERROR_RATE = 0.15  # of the phonemes of a reading that is kept
_MAX_CHARACTERS = 90


class PhonemeScorer:
    """Scores codes with the phonetic head of `trained`, an output of the stage `tokenizer`.

    Raises TrainingError where that folder has no state, or one of other sizes.
    """

    def __init__(self, model: BaichuanAudio, trained: str | Path) -> None:
        self._levels = model.tokenizer.bridge.vq_list
        self._head = trained_head(trained, model.tokenizer.config)

    @torch.no_grad()
    def score(self, codes: Tensor, text: str) -> tuple[float, float]:
        """codes [K, T] of `text` -> CTC loss in nats, phoneme error rate."""
        symbols = phonetic_symbols(text)
        log_probabilities: Tensor = self._head(dequantize(self._levels, codes.T)[None])[0]
        return ctc_nll(log_probabilities, symbols), phoneme_errors(log_probabilities, symbols) / len(symbols)


def texts_to_read(recipe: LanguageModelRecipe, voices: Sequence[str], count: int) -> list[tuple[str, str]]:
    """`count` different replies of the recipe's training dialogues with their voices, drawn by the language weights.

    Raises DataError when the recipe has none.
    """
    known = set(voices)
    replies = {
        (exchange.answer.strip(), dialogue.voice): None
        for dialogue in dialogues_of(recipe, "train")
        for exchange in dialogue.exchanges
        if dialogue.voice in known and exchange.answer.strip() and len(exchange.answer) <= _MAX_CHARACTERS
        if phonetic_symbols(exchange.answer)
    }
    if not replies:
        raise DataError("the recipe has no dialogues in the model's voices to read replies from.")
    texts, weights = list(replies), {} if recipe.mixture is None else recipe.mixture.languages
    shares = np.array([weights.get(voice_language(text), 1.0) for text, _ in texts])
    rng = np.random.default_rng((recipe.seed, 7))
    chosen = rng.choice(len(texts), min(count, len(texts)), replace=False, p=shares / shares.sum())
    return [(text, voice) for text, voice in (texts[i] for i in chosen) if voice is not None]


def record_takes(
    model: BaichuanAudio,
    scorer: PhonemeScorer,
    texts: Sequence[tuple[str, str]],
    output: str | Path,
    num_candidates: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Read every text aloud `num_candidates` times and write the best reading of each to `output` -> their number.

    Readings and the texts without one are written every minute, so a stopped run is continued. `progress(done, all)`.
    Raises DataError where no reading is kept.
    """
    takes = read_takes(output) if (Path(output) / TAKES_FILE).is_file() else []
    rejected = read_rejected(output)
    done, save = {(take.text, take.voice) for take in takes} | set(rejected), Throttle()
    for number, (text, voice) in enumerate(texts):
        if (text, voice) not in done:
            if best := _best_take(model, scorer, text, voice, num_candidates, (seed, number)):
                takes.append(best)
            else:
                rejected.append((text, voice))
        if progress is not None:
            progress(number + 1, len(texts))
        if takes and save.due():
            write_takes(takes, output, rejected)
    if not takes:
        raise DataError(
            f"none of {len(texts)} texts was read with at most {_MAX_ERROR_RATE:.0%} phoneme errors: this model does "
            "not speak well enough yet to be trained on its own readings."
        )
    return write_takes(takes, output, rejected)


def _best_take(
    model: BaichuanAudio, scorer: PhonemeScorer, text: str, voice: str, num_candidates: int, seed: tuple[int, int]
) -> Take | None:
    """The reading with the lowest CTC loss; None where it has too many errors, or none has all runs of words."""
    usual = dataclasses.replace(ReplySampling.from_config(model.config), stop_runaways=False)
    varied = dataclasses.replace(usual, codes=_VARIED)
    clauses = model.clauses_to_speak(text)
    words = [model.text_tokenizer.decode(segment) for clause in clauses for segment in clause]
    prompt = model.prompt_builder().system(model.system_text(None, voice)).reply(spoken=True).build()
    best: tuple[float, Take] | None = None
    for attempt, draw in enumerate(np.random.default_rng(seed).integers(1 << 31, size=num_candidates)):
        session = model.start(prompt.ids, prompt.codes, int(draw))
        program = read_aloud(session, model.text_tokenizer, clauses, varied if attempt else usual, model.context)
        segments = [event.codes.clone() for event in run_program(session, program) if isinstance(event, SegmentEnd)]
        if len(segments) < len(words):
            continue
        nll, error_rate = scorer.score(torch.cat(segments, dim=1), text)
        if best is None or nll < best[0]:
            best = nll, Take(text, voice, tuple(zip(words, segments, strict=True)), error_rate)
    return best[1] if best and best[1].error_rate <= _MAX_ERROR_RATE else None

"""Recording takes: a model reads texts aloud several times, and an ear keeps the clearest reading of each.

The ear is the phonetic head of the stage `tokenizer`. It reads the codes' vectors themselves, so nothing is decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...audio_tokenizer.quantizer import dequantize
from ...data.mixture.takes import TAKES_FILE, Take, read_takes, read_unclear, write_takes
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

_OTHERWISE = Sampling(temperature=0.5, top_k=24, top_p=0.95)  # all takes but the first, which is as the model speaks
_CLEAR = 0.15  # share of the sounds that may be read wrongly in a take
_LONGEST = 90  # characters of a text


class PhonemeScorer:
    """Reads codes with the phonetic head that `trained`, an output of the stage `tokenizer`, holds.

    Raises TrainingError where that folder has no state, or one of other sizes.
    """

    def __init__(self, model: BaichuanAudio, trained: str | Path) -> None:
        self._levels = model.tokenizer.bridge.vq_list
        self._head = trained_head(trained, model.tokenizer.config)

    @torch.no_grad()
    def judge(self, codes: Tensor, text: str) -> tuple[float, float]:
        """codes [K, T] of `text` -> how unlikely its sounds are (nats, by CTC), the share of them read wrongly."""
        wanted = phonetic_symbols(text)
        heard: Tensor = self._head(dequantize(self._levels, codes.T)[None])[0]
        return ctc_nll(heard, wanted), phoneme_errors(heard, wanted) / len(wanted)


def texts_to_read(recipe: LanguageModelRecipe, voices: Sequence[str], count: int) -> list[tuple[str, str]]:
    """`count` different replies of the recipe's training dialogues, and who says each; languages by the diet's weights.

    Raises DataError when the recipe has none.
    """
    known = set(voices)
    found = {
        (exchange.answer.strip(), dialogue.voice): None
        for dialogue in dialogues_of(recipe, "train")
        for exchange in dialogue.exchanges
        if dialogue.voice in known and exchange.answer.strip() and len(exchange.answer) <= _LONGEST
        if phonetic_symbols(exchange.answer)
    }
    if not found:
        raise DataError("the recipe has no dialogues in the model's voices to read replies from.")
    texts, weights = list(found), recipe.mixture.languages
    shares = np.array([weights.get(voice_language(text), 1.0) for text, _ in texts])
    rng = np.random.default_rng((recipe.seed, 7))
    chosen = rng.choice(len(texts), min(count, len(texts)), replace=False, p=shares / shares.sum())
    return [(text, voice) for text, voice in (texts[i] for i in chosen) if voice is not None]


def record_takes(
    model: BaichuanAudio,
    perceptual_model: PhonemeScorer,
    texts: Sequence[tuple[str, str]],
    output: str | Path,
    tries: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Read every text aloud `tries` times and write the clearest take of each to `output` -> how many are there.

    What was found, and which texts were not clear, is written every minute, so a stopped run goes on where it was.
    `progress(done, all)`. Raises DataError where no take is clear.
    """
    takes = read_takes(output) if (Path(output) / TAKES_FILE).is_file() else []
    unclear = read_unclear(output)
    done, save = {(take.text, take.voice) for take in takes} | set(unclear), Throttle()
    for number, (text, voice) in enumerate(texts):
        if (text, voice) not in done:
            if best := _best_take(model, perceptual_model, text, voice, tries, (seed, number)):
                takes.append(best)
            else:
                unclear.append((text, voice))
        if progress is not None:
            progress(number + 1, len(texts))
        if takes and save.due():
            write_takes(takes, output, unclear)
    if not takes:
        raise DataError(
            f"none of {len(texts)} texts was read with at most {_CLEAR:.0%} of its sounds wrong: this model does not "
            "yet speak well enough to learn from its own readings."
        )
    return write_takes(takes, output, unclear)


def _best_take(
    model: BaichuanAudio, perceptual_model: PhonemeScorer, text: str, voice: str, tries: int, seed: tuple[int, int]
) -> Take | None:
    """The likeliest of some readings of a text; None when it is not clear, or each of them left out a run of words."""
    usual = dataclasses.replace(ReplySampling.from_config(model.config), stop_runaways=False)
    otherwise = dataclasses.replace(usual, codes=_OTHERWISE)
    clauses = model.clauses_to_speak(text)
    words = [model.text_tokenizer.decode(segment) for clause in clauses for segment in clause]
    prompt = model.prompt_builder().system(model.system_text(None, voice)).reply(spoken=True).build()
    best: tuple[float, Take] | None = None
    for attempt, draw in enumerate(np.random.default_rng(seed).integers(1 << 31, size=tries)):
        session = model.start(prompt.ids, prompt.codes, int(draw))
        program = read_aloud(session, model.text_tokenizer, clauses, otherwise if attempt else usual, model.context)
        said = [event.codes.clone() for event in run_program(session, program) if isinstance(event, SegmentEnd)]
        if len(said) < len(words):
            continue
        unlikely, wrong = perceptual_model.judge(torch.cat(said, dim=1), text)
        if best is None or unlikely < best[0]:
            best = unlikely, Take(text, voice, tuple(zip(words, said, strict=True)), wrong)
    return best[1] if best and best[1].wrong <= _CLEAR else None

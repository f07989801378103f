"""The tasks of a mixture: each draws from the samplers and lays out one training sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...generation.interleaving import ensure_terminal_punctuation, lookahead_schedule
from ...language_model.prompt import SpecialTokens
from ...language_model.text_tokenizer import TextTokenizer
from .. import sequences
from ..cached_tokenizer import CachedTokenizer
from ..dialogues import Dialogue, Exchange
from ..sequences import SequenceBuilder, TokenSequence, Turn
from .config import MixtureConfig
from .samplers import MixtureData, Samplers
from .weighted_sampling import Utterance, pick

_PLAIN_SHARE = 0.3  # of texts to read aloud that are bare words with a full stop


@dataclass(frozen=True)
class SequenceFormat:
    """What of a model decides the layout of sequences; `interleave_min_letters` is an entry of its config.json."""

    tokenizer: TextTokenizer
    special: SpecialTokens
    codebook_sizes: Sequence[int]
    interleave_min_letters: int | None = None


class TaskContext:
    """Config, samplers and sequence parts that the tasks share."""

    def __init__(self, config: MixtureConfig, layout: SequenceFormat, data: MixtureData) -> None:
        self.config, self.layout, self.data = config, layout, data
        self.samplers = Samplers(config, data)
        self.builder = SequenceBuilder(
            CachedTokenizer(layout.tokenizer.source), layout.special, len(layout.codebook_sizes)
        )

    def system(self, voice: str | None, rng: np.random.Generator) -> str:
        """The system text that names the output voice."""
        default = voice is None or (voice == self.config.default_voice_is and rng.random() < 0.5)
        return self.config.system.format(voice=self.config.default_voice if default else voice)

    def question(self, exchange: Exchange, rng: np.random.Generator) -> str | Tensor:
        """A question as text or as codes [K, T]."""
        if rng.random() < self.config.text_question_prob or exchange.user_clip is None:
            return exchange.user
        return self.data.codes(exchange.user_clip)

    def spoken(self, clip: str, text: str) -> list[tuple[str, Tensor]]:
        """A clip of the model's speech: its text and codes, in the runs of words in which the two alternate."""
        codes, aligner = self.data.codes(clip), self.data.aligner
        if aligner is None or self.layout.interleave_min_letters is None:
            return [(text, codes)]
        words = aligner.split(clip, text, codes.shape[1], self.layout.interleave_min_letters)
        schedule = lookahead_schedule([text for text, _ in words])
        ends = [words[spoken - 1][1] for _, spoken in schedule]
        return [
            (text, codes[:, start:end]) for (text, _), start, end in zip(schedule, [0, *ends[:-1]], ends, strict=True)
        ]

    def text_to_speak(self, utterance: Utterance, rng: np.random.Generator) -> str:
        """The text of a clip to read aloud, at times its bare words."""
        plain = rng.random() < _PLAIN_SHARE
        return ensure_terminal_punctuation(
            utterance.transcript if plain else utterance.text or with_capital(utterance.transcript)
        )


def text_dialogue(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Questions and replies as text."""
    dialogue = context.samplers.texts.pick(rng)
    turns = [Turn(exchange.user, [(text, None) for text, _ in exchange.reply]) for exchange in dialogue.exchanges]
    sequence = sequences.dialogue(context.builder, context.system(dialogue.voice, rng), turns, spoken=False)
    return sequence.named(dialogue.id)


def heard_dialogue(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Spoken questions, replies as text."""
    return _dialogue(context, context.samplers.dialogues.pick(rng), rng, spoken=False)


def spoken_dialogue(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Spoken questions and replies."""
    return _dialogue(context, context.samplers.spoken_dialogues.pick(rng), rng, spoken=True)


def asr(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Transcription of a clip."""
    utterance = context.samplers.utterances.pick(rng)
    codes = context.data.codes(utterance.clip)
    return sequences.transcription(context.builder, codes, utterance.transcript).named(utterance.clip)


def tts(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """A text read aloud in an output voice."""
    utterance = context.samplers.output_voices.pick(rng)
    clauses = context.spoken(utterance.clip, context.text_to_speak(utterance, rng))
    return sequences.speech(context.builder, context.system(utterance.voice, rng), clauses).named(utterance.clip)


def heard_interleaved(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """INTLV: audio and text in turn, the text learnt."""
    pieces: list[str | Tensor] = []
    dialogue = context.samplers.dialogues.pick(rng)
    for exchange in dialogue.exchanges:
        pieces += [context.question(exchange, rng), exchange.answer]
    return sequences.interleaved_heard(context.builder, pieces).named(dialogue.id)


def spoken_interleaved(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """ITTS: text and its speech in turn, both learnt."""
    dialogue = pick(context.samplers.multi_clause, rng)
    reply = max((e.reply for e in dialogue.exchanges), key=len)
    clauses = [part for text, clip in reply if clip for part in context.spoken(clip, text)]
    return sequences.interleaved_spoken(context.builder, clauses).named(dialogue.id)


def pure_audio(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """A clip's codes alone."""
    utterance = context.samplers.utterances.pick(rng)
    return sequences.pure_audio(context.builder, context.data.codes(utterance.clip)).named(utterance.clip)


@dataclass(frozen=True)
class Task:
    """How a task draws a sequence, and the data without which it cannot."""

    draw: Callable[[TaskContext, np.random.Generator], TokenSequence]
    source: Callable[[Samplers], Sized]


TASKS = {
    "text_dialogue": Task(text_dialogue, lambda samplers: samplers.texts),
    "heard_dialogue": Task(heard_dialogue, lambda samplers: samplers.dialogues),
    "spoken_dialogue": Task(spoken_dialogue, lambda samplers: samplers.spoken_dialogues),
    "asr": Task(asr, lambda samplers: samplers.utterances),
    "tts": Task(tts, lambda samplers: samplers.output_voices),
    "heard_interleaved": Task(heard_interleaved, lambda samplers: samplers.dialogues),
    "spoken_interleaved": Task(spoken_interleaved, lambda samplers: samplers.multi_clause),
    "pure_audio": Task(pure_audio, lambda samplers: samplers.utterances),
}
"""The task of each name in `config.TASK_NAMES`."""


def _dialogue(context: TaskContext, dialogue: Dialogue, rng: np.random.Generator, spoken: bool) -> TokenSequence:
    turns = []
    for exchange in dialogue.exchanges:
        question = context.question(exchange, rng)
        reply: list[tuple[str, Tensor | None]] = []
        for text, clip in exchange.reply:
            reply += context.spoken(clip, text) if spoken and clip else [(text, None)]
        turns.append(Turn(question, reply))
    return sequences.dialogue(context.builder, context.system(dialogue.voice, rng), turns, spoken).named(dialogue.id)


def with_capital(words: str) -> str:
    """Bare words with the capital of a sentence."""
    return words[:1].upper() + words[1:]

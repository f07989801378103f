"""The tasks of a mixture: each draws from the samplers and lays out one training sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np

from ...generation.interleaving import ensure_terminal_punctuation, lookahead_schedule, split_words
from ...language_model.prompt import SpecialTokens
from ...language_model.text_tokenizer import TextTokenizer
from ...text.language import voice_language
from .. import sequences
from ..cached_tokenizer import CachedTokenizer, CharacterTokenizer
from ..dialogues import Dialogue, Exchange
from ..sequences import Frames, SequenceBuilder, TokenSequence, Turn
from ..store.manifest import normalise_transcript
from .clip_augmentation import ClipAugmenter
from .config import MixtureConfig
from .samplers import MixtureData, Samplers
from .takes import Take
from .weighted_sampling import Utterance, pick

_MAX_SENTENCES = 3  # read aloud in one sequence
_RETOLD_SPOKEN_QUESTIONS = 0.5  # share of synthetic replies to spoken questions; typed ones make shorter sequences
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
        self.input_clips = ClipAugmenter(config, layout.codebook_sizes, data, self.samplers.by_speaker)
        num_codebooks, source = len(layout.codebook_sizes), layout.tokenizer.source
        self.builder = SequenceBuilder(CachedTokenizer(source), layout.special, num_codebooks)
        self.character_builder = SequenceBuilder(CharacterTokenizer(source), layout.special, num_codebooks)

    def system(self, voice: str | None, rng: np.random.Generator) -> str:
        """The system text that names the output voice."""
        default = voice is None or (voice == self.config.default_voice_is and rng.random() < 0.5)
        return self.config.system.format(voice=self.config.default_voice if default else voice)

    def question(self, exchange: Exchange, rng: np.random.Generator, speaker: str | None = None) -> str | Frames:
        """A question as text or frames; with `speaker` concatenated of that speaker's words, where it has them."""
        if rng.random() < self.config.text_question_prob:
            return self.text_question(exchange.user, rng)
        words = spoken_words(exchange.user)
        frames = self.input_clips.woven(words, speaker, rng) if speaker is not None else None
        if frames is not None:
            return frames
        if exchange.user_clip is None:
            return self.text_question(exchange.user, rng)
        return self.input_clips.clip(exchange.user_clip, words, rng)

    def text_question(self, text: str, rng: np.random.Generator) -> str:
        """A typed question, at times without capitals and end mark."""
        if rng.random() < self.config.augmentation.unpunctuated_prob:
            return text.lower().rstrip(".!?。！？ ")
        return text

    def spoken(self, clip: str, text: str) -> list[tuple[str, Frames]]:
        """A clip of the model's speech: its text and frames, in the runs of words in which the two alternate."""
        codes, aligner = self.data.codes(clip), self.data.aligner
        count = codes.shape[1]
        if aligner is None:
            return [(text, Frames(codes))]
        aligned, phonemes = aligner.spoken_tokens(clip, text, count), aligner.phonemes(clip, count)
        runs = [(text, count)]
        if self.layout.interleave_min_letters is not None:
            words = aligner.split(clip, text, count, self.layout.interleave_min_letters)
            schedule = lookahead_schedule([text for text, _ in words])
            runs = [(text, words[spoken - 1][1]) for text, spoken in schedule]
        starts = [0, *(end for _, end in runs)]
        return [
            (words, Frames(codes[:, start:end], aligned[start:end], phonemes[start:end]))
            for (words, end), start in zip(runs, starts, strict=False)
        ]

    def concatenated_reply(self, voice: str, text: str, rng: np.random.Generator) -> list[tuple[str, Frames]] | None:
        """A reply as `spoken` has it, its frames concatenated of the voice's words and without audio loss."""
        runs = split_words(text, self.layout.tokenizer, self.layout.interleave_min_letters or len(text))
        spoken: list[Frames] = []
        for run in runs:
            frames = self.input_clips.woven(spoken_words(run), voice, rng, pace=0.0)
            if frames is None:
                return None
            spoken.append(frames)
        schedule = lookahead_schedule(runs)
        starts = [0, *(end for _, end in schedule)]
        return [
            (words, Frames(sequences.joined(spoken[start:end]).codes, learnt=False))
            for (words, end), start in zip(schedule, starts, strict=False)
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
    turns = [
        Turn(context.text_question(exchange.user, rng), [(text, None) for text, _ in exchange.reply])
        for exchange in dialogue.exchanges
    ]
    sequence = sequences.dialogue(context.builder, context.system(dialogue.voice, rng), turns, spoken=False)
    return sequence.named(dialogue.id)


def heard_dialogue(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Spoken questions, replies as text."""
    weave = _weaves(context, rng)
    sampler = context.samplers.woven if weave else context.samplers.dialogues
    return _dialogue(context, sampler.pick(rng), rng, spoken=False, weave=weave)


def spoken_dialogue(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Spoken questions and replies."""
    if len(context.samplers.retold) and rng.random() < context.config.retold:
        sequence = _retold(context, rng)
        if sequence is not None:
            return sequence
    dialogue = context.samplers.dialogues.pick(rng)
    return _dialogue(context, dialogue, rng, spoken=True, weave=_weaves(context, rng))


def asr(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """Transcription of a clip, or of words taken out of clips."""
    config, clips = context.config, context.input_clips
    utterance, kind = context.samplers.utterances.pick(rng), rng.random()
    question = _woven_question(context, rng) if _weaves(context, rng) else None
    if question is not None:
        words, frames = question
    elif context.data.aligner is None or kind >= config.excerpts + config.splices:
        words, frames = utterance.transcript, clips.clip(utterance.clip, utterance.transcript, rng)
    elif kind < config.excerpts:
        words, frames = clips.medley(utterance, rng)
    else:
        words, frames = clips.spliced(utterance, rng)
    return sequences.transcription(context.builder, frames, words).named(utterance.clip)


def tts(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """A text read aloud, mostly in an output voice."""
    config, samplers = context.config, context.samplers
    if len(samplers.takes) and rng.random() < config.takes:
        take = samplers.takes.pick(rng)
        return sequences.speech(context.builder, context.system(take.voice, rng), _in_runs(take)).named(take.text)
    other = len(samplers.other_speakers) > 0 and rng.random() < config.auxiliary_speaker_prob
    utterance = (samplers.other_speakers if other else samplers.output_voices).pick(rng)
    by_character = rng.random() < config.augmentation.character_tokenize_prob
    clauses = context.spoken(utterance.clip, context.text_to_speak(utterance, rng))
    english, count = voice_language(utterance.transcript) == "en", 1
    while config.multi_sentence_prob and count < _MAX_SENTENCES and rng.random() < config.multi_sentence_prob:
        more, count = pick(samplers.by_speaker[utterance.speaker_name or ""], rng), count + 1
        if (voice_language(more.transcript) == "en") == english:
            clauses += context.spoken(more.clip, " " * english + context.text_to_speak(more, rng))
    if by_character:  # its tokens are not those of whole words, so they are not aligned
        clauses = [(words, replace(frames, aligned=None)) for words, frames in clauses]
    builder = context.character_builder if by_character else context.builder
    return sequences.speech(builder, context.system(utterance.speaker_name, rng), clauses).named(utterance.clip)


def heard_interleaved(context: TaskContext, rng: np.random.Generator) -> TokenSequence:
    """INTLV: audio and text in turn, the text learnt."""
    pieces: list[str | Frames] = []
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
    """A clip's frames alone."""
    utterance = context.samplers.utterances.pick(rng)
    return sequences.pure_audio(context.builder, Frames(context.data.codes(utterance.clip))).named(utterance.clip)


@dataclass(frozen=True)
class Task:
    """How a task draws a sequence, and the data without which it cannot."""

    draw: Callable[[TaskContext, np.random.Generator], TokenSequence]
    source: Callable[[Samplers], Sized]


TASKS = {
    "text_dialogue": Task(text_dialogue, lambda samplers: samplers.texts),
    "heard_dialogue": Task(heard_dialogue, lambda samplers: samplers.dialogues),
    "spoken_dialogue": Task(spoken_dialogue, lambda samplers: samplers.dialogues),
    "asr": Task(asr, lambda samplers: samplers.utterances),
    "tts": Task(tts, lambda samplers: samplers.output_voices),
    "heard_interleaved": Task(heard_interleaved, lambda samplers: samplers.dialogues),
    "spoken_interleaved": Task(spoken_interleaved, lambda samplers: samplers.multi_clause),
    "pure_audio": Task(pure_audio, lambda samplers: samplers.utterances),
}
"""The task of each name in `config.TASK_NAMES`."""


def read_aloud(context: TaskContext, utterance: Utterance, rng: np.random.Generator) -> TokenSequence:
    """The `tts` sequence of one clip."""
    clauses = context.spoken(utterance.clip, context.text_to_speak(utterance, rng))
    return sequences.speech(context.builder, context.system(utterance.speaker_name, rng), clauses)


def _weaves(context: TaskContext, rng: np.random.Generator) -> bool:
    return len(context.samplers.woven) > 0 and rng.random() < context.config.woven


def _dialogue(
    context: TaskContext, dialogue: Dialogue, rng: np.random.Generator, spoken: bool, weave: bool
) -> TokenSequence:
    speaker = _question_speaker(context, dialogue, rng) if weave else None
    turns = []
    for exchange in dialogue.exchanges:
        question = context.question(exchange, rng, speaker)
        reply: list[tuple[str, Frames | None]] = []
        for text, clip in exchange.reply:
            reply += context.spoken(clip, text) if spoken and clip else [(text, None)]
        turns.append(Turn(question, reply))
    return sequences.dialogue(context.builder, context.system(dialogue.voice, rng), turns, spoken).named(dialogue.id)


def _retold(context: TaskContext, rng: np.random.Generator) -> TokenSequence | None:
    """A generated dialogue as far as the voice has the words of its replies; None if it lacks those of the first."""
    dialogue, turns = context.samplers.retold.pick(rng), list[Turn]()
    speaker = _question_speaker(context, dialogue, rng) if rng.random() < _RETOLD_SPOKEN_QUESTIONS else None
    voice = dialogue.voice or ""
    for exchange in dialogue.exchanges:
        take = context.samplers.take_of.get((voice, exchange.answer.strip()))
        reply = _in_runs(take) if take else context.concatenated_reply(voice, exchange.answer, rng)
        if reply is None:
            break
        turns.append(Turn(context.question(exchange, rng, speaker), reply))
    if not turns:
        return None
    sequence = sequences.dialogue(context.builder, context.system(dialogue.voice, rng), turns, spoken=True)
    return sequence.named(dialogue.id)


def _woven_question(context: TaskContext, rng: np.random.Generator) -> tuple[str, Frames] | None:
    """A question of a generated dialogue: its words, and frames of a speaker's words; None if it lacks one."""
    dialogue = context.samplers.woven.pick(rng)
    words = spoken_words(pick(dialogue.exchanges, rng).user)
    speaker = _question_speaker(context, dialogue, rng)
    frames = context.input_clips.woven(words, speaker, rng) if speaker is not None else None
    return None if frames is None else (words, frames)


def _question_speaker(context: TaskContext, dialogue: Dialogue, rng: np.random.Generator) -> str | None:
    speakers = context.samplers.question_speakers.get(dialogue.language)
    return pick(speakers, rng) if speakers else None


def _in_runs(take: Take) -> list[tuple[str, Frames]]:
    """A take as `TaskContext.spoken` has a clip."""
    return [(words, Frames(codes)) for words, codes in take.runs]


def spoken_words(text: str) -> str:
    """The words of a text as a transcript has them; "" where they cannot be aligned."""
    return normalise_transcript(text, voice_language(text)) or ""


def with_capital(words: str) -> str:
    """Bare words with the capital of a sentence."""
    return words[:1].upper() + words[1:]

"""The language model's diet: tasks drawn by weight.

What step s sees depends on (seed, s) alone: no iterator has a state that a resumed run would have to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import replace

import numpy as np
from torch import Tensor

from ...errors import DataError
from ...generation.interleaving import ensure_terminal_punctuation, lookahead_schedule, split_words
from ...language_model.prompt import SpecialTokens
from ...language_model.text_tokenizer import TextTokenizer
from ...text.language import voice_language
from .. import sequences
from ..alignment.token_alignment import ReadAlong
from ..cached_tokenizer import Remembering, Spelling
from ..dialogues import Dialogue, Exchange
from ..sequences import Frames, SequenceBuilder, TokenSequence, Turn
from ..store.codes_store import CodesStore
from ..store.manifest import normalise_transcript
from .config import TASKS, MixtureConfig
from .hearing import Hearing
from .takes import Take
from .weighted_sampling import LanguageSampler, SkillSampler, SourceSampler, Utterance, pick

_MOST_SENTENCES = 3  # read aloud in one go
_RETOLD_HEARD = 0.5  # of dialogues whose replies are retold; a typed question is short, and the reply repeats it
_PLAIN_SHARE = 0.3  # of texts to read aloud that are bare words with a full stop


class Mixture:
    """Draws one training sequence at a time.

    `codes` finds a clip's frames [K, T], `heard_also` more of them, at other speeds, for clips that are heard;
    `read_along` knows which token each frame says; `interleave_min_letters` (config.json; needs `read_along`) lets
    text and speech take turns every few words instead of every clause; `texts` are dialogues used without audio
    (generated, or the corpus' own); `dialogues` those whose clips all have codes; `utterances` the transcribed clips;
    `takes` what the model read aloud itself.

    Raises:
        DataError: a task has weight and nothing to draw from.
    """

    def __init__(
        self,
        mixture: MixtureConfig,
        tokenizer: TextTokenizer,
        special: SpecialTokens,
        codebook_sizes: Sequence[int],
        codes: Callable[[str], Tensor],
        texts: Sequence[Dialogue] = (),
        dialogues: Sequence[Dialogue] = (),
        utterances: Sequence[Utterance] = (),
        read_along: ReadAlong | None = None,
        heard_also: Sequence[CodesStore] = (),
        interleave_min_letters: int | None = None,
        takes: Sequence[Take] = (),
    ) -> None:
        self.mixture, self.codes, self.read_along, self.interleave_min_letters = (
            mixture,
            codes,
            read_along,
            interleave_min_letters,
        )
        self.tokenizer = tokenizer
        self.builder = SequenceBuilder(Remembering(tokenizer.source), special, len(codebook_sizes))
        self.speller = SequenceBuilder(Spelling(tokenizer.source), special, len(codebook_sizes))
        text_skill_weights = mixture.skill_weights if mixture.text_skill_weights is None else mixture.text_skill_weights
        self.texts = SkillSampler(texts, text_skill_weights, mixture.languages)
        self.dialogues = SkillSampler(dialogues, mixture.skill_weights, mixture.languages)
        wanted = [u for u in utterances if mixture.kinds.get(u.kind, 1.0) > 0]
        self.utterances = SourceSampler(wanted, mixture.kinds, mixture.languages)
        self.voiced = SourceSampler([u for u in wanted if u.voice is not None], mixture.kinds, mixture.languages)
        others = [u for u in wanted if u.voice is None and u.speaker is not None]
        self.others = SourceSampler(others, mixture.kinds, mixture.languages)
        self.by_name: dict[str, list[Utterance]] = {}
        for utterance in wanted:
            if utterance.said_by is not None:
                self.by_name.setdefault(utterance.said_by, []).append(utterance)
        self.hearing = Hearing(mixture, codebook_sizes, codes, self.by_name, read_along, heard_also)
        in_words = [d for d in texts if read_along is not None and d.is_verbalized]
        self.woven = SkillSampler(in_words if mixture.woven > 0 else (), mixture.skill_weights, mixture.languages)
        self.retold = SkillSampler(in_words if mixture.retold > 0 else (), text_skill_weights, mixture.languages)
        self.takes = LanguageSampler(takes, mixture.languages)
        self.take_of = {(take.voice, take.text): take for take in takes}
        self.askers = question_speakers(others)
        self.several = [d for d in dialogues if any(len(e.reply) > 1 for e in d.exchanges)]
        ends = (mixture.tasks, mixture.final_task_weights or mixture.tasks)
        self.names = [name for name in TASKS if any(tasks.get(name, 0) > 0 for tasks in ends)]
        weights = [np.array([tasks.get(name, 0.0) for name in self.names]) for tasks in ends]
        self.first_chances, self.last_chances = (each / each.sum() for each in weights)
        self._check()

    def _check(self) -> None:
        sources: Mapping[str, Sized] = {
            "text_dialogue": self.texts,
            "heard_dialogue": self.dialogues,
            "spoken_dialogue": self.dialogues,
            "asr": self.utterances,
            "tts": self.voiced,
            "heard_interleaved": self.dialogues,
            "spoken_interleaved": self.several,
            "pure_audio": self.utterances,
        }
        for name in self.names:
            if not len(sources[name]):
                raise DataError(f"task {name!r} has weight, but there is no data for it")

    def draw(self, rng: np.random.Generator, progress: float = 0.0) -> TokenSequence:
        """One sequence of a task drawn by weight; `progress` in [0, 1] is how much of the run is over."""
        chances = self.first_chances + progress * (self.last_chances - self.first_chances)
        task = self.names[rng.choice(len(self.names), p=chances)]
        sequence: TokenSequence = getattr(self, "_" + task)(rng)
        return sequence

    # -- tasks ------------------------------------------------------------------------------------------------

    def _text_dialogue(self, rng: np.random.Generator) -> TokenSequence:
        found = self.texts.pick(rng)
        turns = [Turn(self._typed(e.user, rng), [(text, None) for text, _ in e.reply]) for e in found.exchanges]
        return sequences.dialogue(self.builder, self._system(found.voice, rng), turns, spoken=False)

    def _heard_dialogue(self, rng: np.random.Generator) -> TokenSequence:
        weave = self._weaves(rng)
        return self._dialogue((self.woven if weave else self.dialogues).pick(rng), rng, spoken=False, weave=weave)

    def _spoken_dialogue(self, rng: np.random.Generator) -> TokenSequence:
        if len(self.retold) and rng.random() < self.mixture.retold and (told := self._retold(rng)) is not None:
            return told
        return self._dialogue(self.dialogues.pick(rng), rng, spoken=True, weave=self._weaves(rng))

    def _weaves(self, rng: np.random.Generator) -> bool:
        return len(self.woven) > 0 and rng.random() < self.mixture.woven

    def _dialogue(self, found: Dialogue, rng: np.random.Generator, spoken: bool, weave: bool) -> TokenSequence:
        asker = self._asker(found, rng) if weave else None
        turns = [
            Turn(
                self._asked(e, rng, asker),
                [
                    part
                    for text, clip in e.reply
                    for part in (self._said(clip, text) if spoken and clip else [(text, None)])
                ],
            )
            for e in found.exchanges
        ]
        return sequences.dialogue(self.builder, self._system(found.voice, rng), turns, spoken)

    def _retold(self, rng: np.random.Generator) -> TokenSequence | None:
        """A generated dialogue as far as a voice has the words of its replies; None if it cannot give the first."""
        found, turns = self.retold.pick(rng), list[Turn]()
        asker = self._asker(found, rng) if rng.random() < _RETOLD_HEARD else None
        for exchange in found.exchanges:
            take = self.take_of.get((found.voice or "", exchange.answer.strip()))
            reply = _in_runs(take) if take else self._in_words_of(found.voice or "", exchange.answer, rng)
            if reply is None:
                break
            turns.append(Turn(self._asked(exchange, rng, asker), reply))
        return sequences.dialogue(self.builder, self._system(found.voice, rng), turns, spoken=True) if turns else None

    def _in_words_of(self, voice: str, text: str, rng: np.random.Generator) -> list[tuple[str, Frames]] | None:
        """A reply and its sound in turn, as `_said` has them, the sound put together and not learnt."""
        runs, said = split_words(text, self.tokenizer, self.interleave_min_letters or len(text)), list[Frames]()
        for run in runs:
            frames = self.hearing.woven(spoken_words(run), voice, rng, pace=0.0)
            if frames is None:
                return None
            said.append(frames)
        written = lookahead_schedule(runs)
        starts = [0, *(end for _, end in written)]
        return [
            (words, Frames(sequences.joined(said[start:end]).codes, learnt=False))
            for (words, end), start in zip(written, starts, strict=False)
        ]

    def _asr(self, rng: np.random.Generator) -> TokenSequence:
        found, kind = self.utterances.pick(rng), rng.random()
        if self._weaves(rng) and (asked := self._woven_question(rng)) is not None:
            words, frames = asked
        elif self.read_along is None or kind >= self.mixture.excerpts + self.mixture.splices:
            words, frames = found.transcript, self.hearing.clip(found.clip, found.transcript, rng)
        elif kind < self.mixture.excerpts:
            words, frames = self.hearing.medley(found, rng)
        else:
            words, frames = self.hearing.spliced(found, rng)
        return sequences.transcription(self.builder, frames, words)

    def _woven_question(self, rng: np.random.Generator) -> tuple[str, Frames] | None:
        """Any question of a generated dialogue: its words, and how a voice says them; None if it lacks one."""
        found = self.woven.pick(rng)
        words, asker = spoken_words(pick(found.exchanges, rng).user), self._asker(found, rng)
        frames = self.hearing.woven(words, asker, rng) if asker is not None else None
        return None if frames is None else (words, frames)

    def _tts(self, rng: np.random.Generator) -> TokenSequence:
        if len(self.takes) and rng.random() < self.mixture.takes:
            take = self.takes.pick(rng)
            return sequences.speech(self.builder, self._system(take.voice, rng), _in_runs(take))
        other = len(self.others) > 0 and rng.random() < self.mixture.auxiliary_speaker_prob
        found = (self.others if other else self.voiced).pick(rng)
        character_tokenize_prob = rng.random() < self.mixture.augmentation.character_tokenize_prob
        clauses = self._said(found.clip, self._as_written(found, rng))
        english, count = voice_language(found.transcript) == "en", 1
        while self.mixture.sentences and count < _MOST_SENTENCES and rng.random() < self.mixture.sentences:
            more, count = pick(self.by_name[found.said_by or ""], rng), count + 1
            if (voice_language(more.transcript) == "en") == english:
                clauses += self._said(more.clip, " " * english + self._as_written(more, rng))
        if character_tokenize_prob:  # its tokens are not those of whole words, so nobody reads along
            clauses = [(words, replace(frames, along=None)) for words, frames in clauses]
        builder = self.speller if character_tokenize_prob else self.builder
        return sequences.speech(builder, self._system(found.said_by, rng), clauses)

    def read_aloud(self, found: Utterance, rng: np.random.Generator) -> TokenSequence:
        """A clip as a text and who reads it aloud."""
        clauses = self._said(found.clip, self._as_written(found, rng))
        return sequences.speech(self.builder, self._system(found.said_by, rng), clauses)

    def _as_written(self, found: Utterance, rng: np.random.Generator) -> str:
        plain = rng.random() < _PLAIN_SHARE
        return ensure_terminal_punctuation(
            found.transcript if plain else found.written or with_capital(found.transcript)
        )

    def _heard_interleaved(self, rng: np.random.Generator) -> TokenSequence:
        pieces: list[str | Frames] = []
        for exchange in self.dialogues.pick(rng).exchanges:
            pieces += [self._asked(exchange, rng), exchange.answer]
        return sequences.interleaved_heard(self.builder, pieces)

    def _spoken_interleaved(self, rng: np.random.Generator) -> TokenSequence:
        reply = max((e.reply for e in pick(self.several, rng).exchanges), key=len)
        clauses = [part for text, clip in reply if clip for part in self._said(clip, text)]
        return sequences.interleaved_spoken(self.builder, clauses)

    def _pure_audio(self, rng: np.random.Generator) -> TokenSequence:
        return sequences.pure_audio(self.builder, Frames(self.codes(self.utterances.pick(rng).clip)))

    # -- variety ----------------------------------------------------------------------------------------------

    def _system(self, voice: str | None, rng: np.random.Generator) -> str:
        default = voice is None or (voice == self.mixture.default_voice_is and rng.random() < 0.5)
        return self.mixture.system.format(voice=self.mixture.default_voice if default else voice)

    def _asker(self, found: Dialogue, rng: np.random.Generator) -> str | None:
        """A voice that asks all questions of a dialogue."""
        askers = self.askers.get(found.language)
        return pick(askers, rng) if askers else None

    def _asked(self, exchange: Exchange, rng: np.random.Generator, asker: str | None = None) -> str | Frames:
        """A question as it is typed or heard; with `asker` woven in that voice, where it has the words."""
        if rng.random() < self.mixture.typed:
            return self._typed(exchange.user, rng)
        words = spoken_words(exchange.user)
        woven = self.hearing.woven(words, asker, rng) if asker is not None else None
        if woven is not None:
            return woven
        if exchange.user_clip is None:
            return self._typed(exchange.user, rng)
        return self.hearing.clip(exchange.user_clip, words, rng)

    def _typed(self, text: str, rng: np.random.Generator) -> str:
        if rng.random() < self.mixture.augmentation.unpunctuated_prob:
            return text.lower().rstrip(".!?。！？ ")
        return text

    def _said(self, clip: str, text: str) -> list[tuple[str, Frames]]:
        """A clause and its sound, in the runs of words in which the two take turns."""
        codes, parts = self.codes(clip), []
        count = codes.shape[1]
        if self.read_along is None:
            return [(text, Frames(codes))]
        along, sounds = self.read_along.reading(clip, text, count), self.read_along.sounds(clip, count)
        runs = [(text, count)]
        if self.interleave_min_letters is not None:
            found = self.read_along.split(clip, text, count, self.interleave_min_letters)
            runs = [(words, found[said - 1][1]) for words, said in lookahead_schedule([words for words, _ in found])]
        start = 0
        for words, end in runs:
            parts.append((words, Frames(codes[:, start:end], along[start:end], sounds[start:end])))
            start = end
        return parts


def _in_runs(take: Take) -> list[tuple[str, Frames]]:
    """A take as `Mixture._said` has a clip."""
    return [(words, Frames(codes)) for words, codes in take.runs]


def question_speakers(utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """The names of those who speak each language."""
    found: dict[str, set[str]] = {}
    for utterance in utterances:
        if utterance.said_by is not None:
            found.setdefault(voice_language(utterance.transcript), set()).add(utterance.said_by)
    return {language: sorted(speakers) for language, speakers in found.items()}


def spoken_words(text: str) -> str:
    """The words of a question as a transcript has them; "" where nobody could read along."""
    return normalise_transcript(text, voice_language(text)) or ""


def with_capital(words: str) -> str:
    """Bare words as a sentence begins."""
    return words[:1].upper() + words[1:]

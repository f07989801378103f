"""The language model's diet: tasks drawn by weight.

What step s sees depends on (seed, s) alone: no iterator has a state that a resumed run would have to restore.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.data import sequences
from baichuan_audio.data.dataset import CodesStore
from baichuan_audio.data.dialogues import Dialogue, Exchange
from baichuan_audio.data.manifest import normalise_transcript
from baichuan_audio.data.read_along import UNKNOWN, ReadAlong
from baichuan_audio.data.sequences import Frames, SequenceBuilder, TokenSequence, Turn
from baichuan_audio.errors import DataError
from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.text_tokenizer import TextTokenizer

T = TypeVar("T")
_LONGEST_EXCERPT = 4  # words
_LONGEST_MEDLEY = 4  # excerpts
_MOST_SENTENCES = 3  # read aloud in one go
_PLAIN_SHARE = 0.3  # of texts to read aloud that are bare words
TASKS = (
    "text_dialogue",
    "heard_dialogue",
    "spoken_dialogue",
    "asr",
    "tts",
    "heard_interleaved",
    "spoken_interleaved",
    "pure_audio",
)


@dataclass(frozen=True)
class Utterance:
    """A transcribed clip; `voice` is the output voice that speaks it, None for any other speaker."""

    clip: str
    transcript: str
    voice: str | None = None
    kind: str = ""
    written: str | None = None
    """The transcript with capitals and marks, where that is known."""
    speaker: str | None = None
    """Who says it, where that name can stand for a voice: a synthetic one, perhaps not an output voice."""

    @property
    def said_by(self) -> str | None:
        """The name of the voice or else of the speaker."""
        return self.voice or self.speaker


@dataclass(frozen=True)
class Augmentation:
    """Variety for what the model hears and reads; none of it touches what is learnt as a target."""

    replaced_frames: float = 0.0
    """Share of a user's frames replaced by another frame of the same clip."""
    replaced_codes: float = 0.0
    """Share of codes replaced by any index, from the second codebook on."""
    tempo: float = 0.0
    """Frames dropped or doubled, up to this share of the clip."""
    spelt: float = 0.0
    """Share of texts to read aloud given character by character instead of in whole words."""
    careless: float = 0.0
    """Share of typed questions without capitals and end mark."""


@dataclass(frozen=True)
class Diet:
    """`tasks`: name -> weight (see TASKS). `typed`: share of a heard or spoken dialogue's questions that are text."""

    tasks: dict[str, float]
    tasks_at_end: dict[str, float] | None = None
    """Weights that `tasks` turns into, linearly over the run; None: they stay."""
    typed: float = 0.2
    kinds: dict[str, float] = field(default_factory=dict)
    """Weight of a kind of clip (of a real one: its source) in asr, tts and pure_audio; 1 where it is not named."""
    emphasis: dict[str, float] = field(default_factory=dict)
    """How many times as often as the others a skill's dialogues are drawn."""
    text_emphasis: dict[str, float] | None = None
    """The same for text_dialogue alone; None: `emphasis`. Facts are learnt cheapest without sound."""
    other_voices: float = 0.0
    """Share of reading aloud in the voices that ask, by their names: they say words that the others say seldom."""
    sentences: float = 0.0
    """Chance that another sentence of the same voice follows one that is read aloud, up to three in all."""
    excerpts: float = 0.0
    """Share of asr that hears one to four words out of a clip: without its sentence a word cannot be guessed."""
    medley: float = 0.0
    """Chance that another excerpt of the same speaker follows one, up to four in all."""
    splices: float = 0.0
    """Share of asr that hears a clip in which one word gave way to another that its speaker said elsewhere: any word
    may then stand in any sentence, and what is usual there says less than what is heard."""
    longest: int = 0
    """Code frames of the longest clip used in asr, tts and pure_audio; 0 for any."""
    default_voice: str = "邻家女声"
    default_voice_is: str | None = None
    """The voice name that the default name stands for; half of its dialogues are then asked by the default name."""
    system: str = "请用【{voice}】这个声音回答问题。"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for tasks in (self.tasks, self.tasks_at_end or self.tasks):
            unknown = set(tasks) - set(TASKS)
            if unknown or not any(weight > 0 for weight in tasks.values()):
                raise DataError(f"tasks must be weights of {', '.join(TASKS)}; not {', '.join(unknown) or 'all zero'}")


class Mixture:
    """Draws one training sequence at a time.

    `codes` finds a clip's frames [K, T], `heard_also` more of them, at other speeds, for clips that are heard;
    `read_along` knows which token each frame says; `interleave_letters` (config.json; needs `read_along`) lets text and
    speech take turns every few words instead of every clause; `texts` are dialogues used without audio
    (generated, or the corpus' own); `dialogues` those whose clips all have codes; `utterances` the transcribed clips.

    Raises:
        DataError: a task has weight and nothing to draw from.
    """

    def __init__(
        self,
        diet: Diet,
        tokenizer: TextTokenizer,
        special: SpecialTokens,
        codebook_sizes: Sequence[int],
        codes: Callable[[str], Tensor],
        texts: Sequence[Dialogue] = (),
        dialogues: Sequence[Dialogue] = (),
        utterances: Sequence[Utterance] = (),
        read_along: ReadAlong | None = None,
        heard_also: Sequence[CodesStore] = (),
        interleave_letters: int | None = None,
    ) -> None:
        self.diet, self.codes, self.read_along, self.heard_also = diet, codes, read_along, heard_also
        self.interleave_letters = interleave_letters
        self.sizes = torch.tensor(codebook_sizes)
        self.builder = SequenceBuilder(Remembering(tokenizer.source), special, len(codebook_sizes))
        self.speller = SequenceBuilder(Spelling(tokenizer.source), special, len(codebook_sizes))
        self.texts = BySkill(texts, diet.emphasis if diet.text_emphasis is None else diet.text_emphasis)
        self.dialogues = BySkill(dialogues, diet.emphasis)
        wanted = [u for u in utterances if diet.kinds.get(u.kind, 1.0) > 0]
        self.utterances = ByKind(wanted, diet.kinds)
        self.voiced = ByKind([u for u in wanted if u.voice is not None], diet.kinds)
        self.others = ByKind([u for u in wanted if u.voice is None and u.speaker is not None], diet.kinds)
        self.by_name: dict[str, list[Utterance]] = {}
        for utterance in wanted:
            if utterance.said_by is not None:
                self.by_name.setdefault(utterance.said_by, []).append(utterance)
        self.several = [d for d in dialogues if any(len(e.reply) > 1 for e in d.exchanges)]
        ends = (diet.tasks, diet.tasks_at_end or diet.tasks)
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
        return self._dialogue(rng, spoken=False)

    def _spoken_dialogue(self, rng: np.random.Generator) -> TokenSequence:
        return self._dialogue(rng, spoken=True)

    def _dialogue(self, rng: np.random.Generator, spoken: bool) -> TokenSequence:
        found = self.dialogues.pick(rng)
        turns = [
            Turn(
                self._asked(e, rng),
                [
                    part
                    for text, clip in e.reply
                    for part in (self._said(clip, text) if spoken and clip else [(text, None)])
                ],
            )
            for e in found.exchanges
        ]
        return sequences.dialogue(self.builder, self._system(found.voice, rng), turns, spoken)

    def _asr(self, rng: np.random.Generator) -> TokenSequence:
        found, kind = self.utterances.pick(rng), rng.random()
        if self.read_along is None or kind >= self.diet.excerpts + self.diet.splices:
            words, frames = found.transcript, self._heard(found.clip, found.transcript, rng)
        elif kind < self.diet.excerpts:
            words, frames = self._medley(self.read_along, found, rng)
        else:
            words, frames = self._spliced(self.read_along, found, rng)
        return sequences.transcription(self.builder, frames, words)

    def _tts(self, rng: np.random.Generator) -> TokenSequence:
        other = len(self.others) > 0 and rng.random() < self.diet.other_voices
        found = (self.others if other else self.voiced).pick(rng)
        spelt = rng.random() < self.diet.augmentation.spelt
        clauses = self._said(found.clip, self._as_written(found, rng))
        english, count = found.transcript.isascii(), 1
        while self.diet.sentences and count < _MOST_SENTENCES and rng.random() < self.diet.sentences:
            more, count = _pick(self.by_name[found.said_by or ""], rng), count + 1
            if more.transcript.isascii() == english:
                clauses += self._said(more.clip, " " * english + self._as_written(more, rng))
        if spelt:  # its tokens are not those of whole words, so nobody reads along
            clauses = [(words, replace(frames, along=None)) for words, frames in clauses]
        builder = self.speller if spelt else self.builder
        return sequences.speech(builder, self._system(found.said_by, rng), clauses)

    def read_aloud(self, found: Utterance) -> TokenSequence:
        """A clip of a voice as reading aloud: the same sequence each time."""
        system = self.diet.system.format(voice=found.said_by)
        return sequences.speech(
            self.builder, system, self._said(found.clip, found.written or as_sentence(found.transcript))
        )

    def _as_written(self, found: Utterance, rng: np.random.Generator) -> str:
        return found.transcript if rng.random() < _PLAIN_SHARE else found.written or as_sentence(found.transcript)

    def _heard_interleaved(self, rng: np.random.Generator) -> TokenSequence:
        pieces: list[str | Frames] = []
        for exchange in self.dialogues.pick(rng).exchanges:
            pieces += [self._asked(exchange, rng), exchange.answer]
        return sequences.interleaved_heard(self.builder, pieces)

    def _spoken_interleaved(self, rng: np.random.Generator) -> TokenSequence:
        reply = max((e.reply for e in _pick(self.several, rng).exchanges), key=len)
        clauses = [part for text, clip in reply if clip for part in self._said(clip, text)]
        return sequences.interleaved_spoken(self.builder, clauses)

    def _pure_audio(self, rng: np.random.Generator) -> TokenSequence:
        return sequences.pure_audio(self.builder, Frames(self.codes(self.utterances.pick(rng).clip)))

    # -- variety ----------------------------------------------------------------------------------------------

    def _system(self, voice: str | None, rng: np.random.Generator) -> str:
        default = voice is None or (voice == self.diet.default_voice_is and rng.random() < 0.5)
        return self.diet.system.format(voice=self.diet.default_voice if default else voice)

    def _asked(self, exchange: Exchange, rng: np.random.Generator) -> str | Frames:
        if exchange.user_clip is None or rng.random() < self.diet.typed:
            return self._typed(exchange.user, rng)
        words = normalise_transcript(exchange.user, "en" if exchange.user.isascii() else "zh")
        return self._heard(exchange.user_clip, words or "", rng)  # "": nobody can read along

    def _typed(self, text: str, rng: np.random.Generator) -> str:
        if rng.random() < self.diet.augmentation.careless:
            return text.lower().rstrip(".!?。！？ ")
        return text

    def _medley(self, read_along: ReadAlong, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Words out of one clip, and perhaps out of others of its speaker, as if said one after the other."""
        heard = [self._excerpt(read_along, found, rng)]
        neighbours = self.by_name.get(found.said_by or "", [])
        while neighbours and len(heard) < _LONGEST_MEDLEY and rng.random() < self.diet.medley:
            heard.append(self._excerpt(read_along, _pick(neighbours, rng), rng))
        words = (" " if found.transcript.isascii() else "").join(words for words, _ in heard if words)
        return words, sequences.joined([frames for _, frames in heard])

    def _excerpt(self, read_along: ReadAlong, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """Some words in a row out of a clip."""
        runs = self._runs(read_along, found)
        first = int(rng.integers(len(runs)))
        return self._cut(found, runs, first, first + int(rng.integers(1, _LONGEST_EXCERPT, endpoint=True)), rng)

    def _spliced(self, read_along: ReadAlong, found: Utterance, rng: np.random.Generator) -> tuple[str, Frames]:
        """A clip with another word of its speaker in place of one of its own; long words more often than short ones."""
        giver = _pick(self.by_name.get(found.said_by or "", [found]), rng)
        if giver.transcript.isascii() != found.transcript.isascii():  # a voice of two languages
            giver = found
        runs, given = self._runs(read_along, found), self._runs(read_along, giver)
        place, word = _by_length(runs, rng), _by_length(given, rng)
        parts = [self._cut(giver, given, word, word + 1, rng)]
        if place:
            parts.insert(0, self._cut(found, runs, 0, place, rng))
        if place + 1 < len(runs):
            parts.append(self._cut(found, runs, place + 1, len(runs), rng))
        blank = " " if found.transcript.isascii() else ""
        return blank.join(words for words, _ in parts), sequences.joined([frames for _, frames in parts])

    def _runs(self, read_along: ReadAlong, found: Utterance) -> list[tuple[str, int]]:
        """The words of a clip, each with the frame at which it ends."""
        return read_along.split(found.clip, found.transcript, self.codes(found.clip).shape[1], 1)

    def _cut(
        self, found: Utterance, runs: Sequence[tuple[str, int]], first: int, stop: int, rng: np.random.Generator
    ) -> tuple[str, Frames]:
        """The runs [first, stop) of a clip."""
        part = runs[first:stop]
        # where they begin, where the first of them ends and where the last one does
        places = (runs[first - 1][1] if first else 0, part[0][1], part[-1][1])
        return "".join(words for words, _ in part).strip(), self._heard(found.clip, found.transcript, rng, places)

    def _heard(
        self, clip: str, words: str, rng: np.random.Generator, part: tuple[int, int, int] | None = None
    ) -> Frames:
        """A clip's frames, varied, or those from `part[0]` to `part[2]`, of whose words the first ends at `part[1]`."""
        codes = heard = self.codes(clip)
        others = [store for store in self.heard_also if clip in store]
        if others and (which := int(rng.integers(len(others) + 1))):
            heard = others[which - 1][clip]
        speed, frames = codes.shape[1] / heard.shape[1], heard.shape[1]
        begin, known, end = (round(place / speed) for place in part or (0, 0, codes.shape[1]))
        begin = min(begin, frames - 1)  # one frame at least
        varied, kept = vary_codes(heard[:, begin : max(end, begin + 1)], self.sizes, self.diet.augmentation, rng)
        if self.read_along is None:
            return Frames(varied)
        along = self.read_along.heard(clip, words, frames, speed)
        along[: known if part else 0] = UNKNOWN  # a word before the excerpt is not in it
        sounds = self.read_along.sounds(clip, frames, speed)
        return Frames(varied, along[begin:][kept], sounds[begin:][kept])

    def _said(self, clip: str, text: str) -> list[tuple[str, Frames]]:
        """A clause and its sound, in the runs of words in which the two take turns."""
        codes, parts = self.codes(clip), []
        count = codes.shape[1]
        if self.read_along is None:
            return [(text, Frames(codes))]
        along, sounds = self.read_along.reading(clip, text, count), self.read_along.sounds(clip, count)
        runs = [(text, count)]
        if self.interleave_letters is not None:
            runs = self.read_along.split(clip, text, count, self.interleave_letters)
        start = 0
        for words, end in runs:
            parts.append((words, Frames(codes[:, start:end], along[start:end], sounds[start:end])))
            start = end
        return parts


def as_sentence(words: str) -> str:
    """Bare words with a capital and a full stop."""
    return words[:1].upper() + words[1:] + ("." if words.isascii() else "。")


class BySkill:
    """Dialogues drawn evenly, but those of some skills several times as often."""

    def __init__(self, dialogues: Sequence[Dialogue], weights: Mapping[str, float]) -> None:
        self._dialogues = dialogues
        self._ends = np.cumsum([weights.get(dialogue.skill, 1.0) for dialogue in dialogues])

    def __len__(self) -> int:
        return len(self._dialogues)

    def pick(self, rng: np.random.Generator) -> Dialogue:
        return self._dialogues[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]


class ByKind:
    """Utterances drawn by the weight of their kind, evenly within it."""

    def __init__(self, utterances: Sequence[Utterance], weights: Mapping[str, float]) -> None:
        self._kinds: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._kinds.setdefault(utterance.kind, []).append(utterance)
        chances = np.array([weights.get(kind, 1.0) for kind in self._kinds])
        self._chances = chances / max(chances.sum(), 1e-9)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __iter__(self) -> Iterator[Utterance]:
        return itertools.chain.from_iterable(self._kinds.values())

    def pick(self, rng: np.random.Generator) -> Utterance:
        return _pick(list(self._kinds.values())[rng.choice(len(self._kinds), p=self._chances)], rng)


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _by_length(runs: Sequence[tuple[str, int]], rng: np.random.Generator) -> int:
    """One of the runs, drawn by how long it lasts."""
    lasts = np.diff([0, *(end for _, end in runs)])
    return int(rng.choice(len(runs), p=lasts / lasts.sum()))


def vary_codes(codes: Tensor, sizes: Tensor, how: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Heard codes [K, T] with tempo, frames and fine codes disturbed: codes [K, S], and the place in T of each, [S].

    S is at least one. A frame that was replaced keeps the place of the one that belongs there.
    """
    count = codes.shape[1]
    kept = np.arange(count)
    if how.tempo:
        wanted = max(1, round(count * (1 + rng.uniform(-how.tempo, how.tempo))))
        if wanted <= count:
            kept = rng.choice(count, wanted, replace=False)
        else:
            kept = np.concatenate([kept, rng.choice(count, wanted - count)])
        kept.sort()
    shown = kept.copy()
    if how.replaced_frames:
        gone = rng.random(len(kept)) < how.replaced_frames
        shown[gone] = rng.integers(count, size=int(gone.sum()))
    varied = codes[:, torch.from_numpy(shown)]
    if how.replaced_codes:
        gone_codes = torch.from_numpy(rng.random(varied.shape) < how.replaced_codes)
        gone_codes[0] = False
        anything = (torch.from_numpy(rng.random(varied.shape)) * sizes[:, None]).long()
        varied = torch.where(gone_codes, anything, varied)
    return varied, torch.from_numpy(kept)


class Remembering(TextTokenizer):
    """A text tokenizer that keeps the ids of every text it has seen: training asks for the same ones again."""

    def __init__(self, source: str) -> None:
        self._known: dict[str, list[int]] = {}
        super().__init__(source)

    def encode(self, text: str) -> list[int]:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._new(text)
        return known

    def _new(self, text: str) -> list[int]:
        return super().encode(text)


class Spelling(Remembering):
    """Every text character by character, as words outside the tokenizer's table are."""

    def _new(self, text: str) -> list[int]:
        return [id for character in text for id in super(Spelling, self)._new(character)]

"""The whole model, and what people come for: transcribe, speak, chat."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor, nn

from .audio.voice_activity import Speech, find_speech_in_steps, last_of
from .audio.waveform import load_waveform, prepare_waveform
from .audio_tokenizer.model import AudioTokenizer
from .errors import AudioError, NoSpeechError, PromptError
from .flow_decoder.model import FlowDecoder
from .language_model.audio_head import AudioHead
from .language_model.interleaving import ended, interleave_letters, split_words, write_ahead
from .language_model.model import LanguageModel
from .language_model.prompt import (
    DEFAULT_VOICE,
    NO_WORDS,
    TRANSCRIBE_INSTRUCTION,
    AudioPart,
    Message,
    PromptBuilder,
    SpecialTokens,
    parse_content,
    parse_messages,
    split_clauses,
    voice_instruction,
)
from .language_model.reply import ReplySampling, follow_frames, read_aloud, spoken_reply, write_text_reply
from .language_model.sampling import Sampling
from .language_model.sequence import Frame, frames_to_codes
from .language_model.session import Session
from .language_model.text_tokenizer import TextTokenizer
from .synthesis import Joiner, SpeechStream, synthesize
from .text.user_input import input_steps, normalize_user_text

_CLAUSE_CHARACTERS = 11  # a clause to speak is longer than ten characters
_LONGEST_CLAUSE = 200
NO_SPEECH = "no speech was found in the audio of this message."
_SHORT_TEXT = 120  # bytes in UTF-8 that are spoken in one go


@dataclass(frozen=True)
class TextPiece:
    """Some more text of a reply; the pieces joined are the reply."""

    text: str


@dataclass(frozen=True)
class WaveformPiece:
    """Some more sound of a reply: waveform [S] float32 on the CPU; the pieces laid end to end are the reply."""

    waveform: Tensor
    sample_rate: int


Reply = Generator[TextPiece | WaveformPiece, None, None]


class BaichuanAudio(nn.Module):
    """Audio tokenizer, language model with its audio head, flow decoder and vocoder: speech in, speech out.

    `baichuan_audio.load` makes one from a checkpoint directory. `config` is the whole `config.json`, kept for saving.
    Audio is given as a path, as the bytes of a file, as an open file, or as (waveform [S] or [channels, S],
    sample_rate in Hz).
    """

    session_type: Callable[..., Session] = Session
    """How sequences are written; `obvious` and `fast` have others."""
    inference_only = False
    """True where the weights were rearranged for speed: such a model is neither trained nor saved."""

    def __init__(self, config: dict[str, Any], text_tokenizer: TextTokenizer, vocoder: nn.Module) -> None:
        super().__init__()
        self.config, self.text_tokenizer = config, text_tokenizer
        self.special = SpecialTokens.from_config(config, text_tokenizer)
        self.tokenizer = AudioTokenizer.from_config(config)
        self.flow = FlowDecoder.from_config(config)
        self.language_model = LanguageModel.from_config(config)
        self.audio_head = AudioHead.from_config(config)
        self.vocoder = vocoder
        self._output_rate = int(vocoder.sample_rate)  # type: ignore[arg-type]
        self._interleave_letters = interleave_letters(config)
        self._input_steps = input_steps(config)
        self.audio_head.attach_embeddings(self.language_model.audio_embed_layers)
        self.tokenizer.attach_synthesis(self._synthesize, self.sample_rate)

    @property
    def sample_rate(self) -> int:
        """Of the waveforms it makes, in Hz."""
        return self._output_rate

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices known by name, the default first; a checkpoint without a list may know more."""
        return tuple(self.config.get("voices") or (DEFAULT_VOICE,))

    @property
    def continuous_speech(self) -> bool:
        """Whether the audio segments of a reply are one stretch of sound, not one each (`interleaving.py`)."""
        return self._interleave_letters is not None

    def start(self, ids: Tensor | Sequence[int], codes: Tensor | None = None, seed: int | None = None) -> Session:
        """Read a prompt: ids [N], codes [K, P] with P the number of audio_pad ids -> a session that goes on from it.

        Raises PromptError when they do not fit each other or this model.
        """
        session = self.session_type(self.language_model, self.audio_head, self.special, seed)
        session.extend(ids, codes)
        return session

    @torch.no_grad()
    def transcribe(self, audio: Any, sampling: Sampling | None = None, vad: bool = True) -> str:
        """What is said in `audio` (any length) -> text, "" where nobody speaks.

        Each segment of speech between pauses is written by itself. vad=False: all of it is read as it is, in pieces of
        `max_audio_seconds`. Raises AudioError when the audio cannot be used.
        """
        limits = self.tokenizer.config
        waveform = self._waveform(audio)
        speech = last_of(self.find_speech(waveform, limits.sampling_rate, vad, limits.max_audio_seconds))
        texts: list[str] = []
        for piece in itertools.chain.from_iterable(part.split(limits.piece_samples) for part in speech.pieces()):
            if texts and piece.shape[0] < limits.min_samples:
                continue
            codes = self.tokenizer.encode(piece, limits.sampling_rate)
            prompt = self.prompt_builder().text(TRANSCRIBE_INSTRUCTION).audio(codes).build()
            session = self.start(prompt.ids, prompt.codes)
            most = 32 + 3 * codes.shape[1]  # far more than anyone can say in that time
            reply = write_text_reply(session, self.text_tokenizer, sampling or Sampling(), most)
            texts.append("".join(reply).strip())
        return join_texts(texts)

    def speak(
        self, text: str, voice: str | None = None, sampling: ReplySampling | None = None, seed: int | None = None
    ) -> Tensor:
        """Read `text` aloud -> waveform [S] at `sample_rate`. Long text goes clause by clause, in one context.

        voice: one of `voices` by its name. Raises PromptError for a text without words or an unknown voice.
        """
        segments = [e for e in self._read_aloud(text, voice, sampling, seed) if isinstance(e, Tensor)]
        if self.continuous_speech and segments:
            segments = [torch.cat(segments, dim=1)]
        joiner, waveforms = Joiner(self.sample_rate), []
        for codes in segments:
            waveforms += [joiner.push(self.tokenizer.decode(codes)), joiner.end_segment()]
        return torch.cat([*waveforms, joiner.flush()])

    def speak_pieces(
        self, text: str, voice: str | None = None, sampling: ReplySampling | None = None, seed: int | None = None
    ) -> Iterator[WaveformPiece]:
        """`speak` while the sound is being made, before a clause is finished; nearly the same (docs/streaming.md)."""
        events = self._read_aloud(text, voice, sampling, seed)
        return cast("Iterator[WaveformPiece]", self._sounding(events))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        speak: bool = True,
        voice: str | None = None,
        sampling: ReplySampling | None = None,
        seed: int | None = None,
        vad: bool = True,
    ) -> Iterator[TextPiece | WaveformPiece]:
        """Answer a dialogue, giving out text and sound as they are made (`speak=False`: text only).

        messages: `[{"role": "system" | "user" | "assistant", "content": ...}, ...]`, the user last; content is a text,
        `{"audio": audio}`, or a list of such. For a dialogue of several turns, `conversation` reads each turn once.
        vad: as in `conversation`. Raises PromptError or AudioError for input that cannot be used, NoSpeechError for a
        message without words.
        """
        parsed = parse_messages(messages)
        system = "".join(str(part) for part in parsed[0].parts) if parsed[0].role == "system" else None
        turns = parsed[1:] if system is not None else parsed
        conversation = self.conversation(system, voice, speak, sampling, seed, vad)
        for message in turns[:-1]:
            conversation.add(message)
        return conversation.ask_message(turns[-1])

    def conversation(
        self,
        system: str | None = None,
        voice: str | None = None,
        speak: bool = True,
        sampling: ReplySampling | None = None,
        seed: int | None = None,
        vad: bool = True,
    ) -> Conversation:
        """Begin a dialogue in which each turn is heard and read once.

        system: replaces the default system text, which chooses the voice. voice: one of `voices`. vad: find the speech
        in the user's audio and shorten the silence around it; False: read it as it is.
        """
        text = self.system_text(system, voice)
        return Conversation(self, text, speak, sampling or ReplySampling.from_config(self.config), seed, vad)

    def system_text(self, system: str | None = None, voice: str | None = None) -> str:
        """The text of the system turn: the voice by its name, then `system`; a system text alone names no voice.

        Raises PromptError for a voice this model does not have.
        """
        chosen = voice_instruction(self._checked_voice(voice))
        system = None if system is None else normalize_user_text(system)
        return chosen if system is None else system if voice is None else chosen + system

    def clauses_to_speak(self, text: str) -> list[list[int]]:
        """Text -> the ids of the clauses in which it is read aloud; raises PromptError where there is none."""
        if not isinstance(text, str) or not text.strip():
            raise PromptError("there is no text to speak.")
        parts = [text]
        if len(text.encode("utf-8", "replace")) > _SHORT_TEXT:
            parts = split_clauses(text, _CLAUSE_CHARACTERS, _LONGEST_CLAUSE)
        if letters := self._interleave_letters:
            runs = [split_words(ended(part), self.text_tokenizer, letters) for part in parts]
            parts = [words for each in runs for words, _ in write_ahead(each)]
        return [self.text_tokenizer.encode(part) for part in parts]

    def prompt_builder(self) -> PromptBuilder:
        """Writes prompts with this model's text tokenizer and control tokens."""
        codebooks = len(self.language_model.codebook_sizes)
        return PromptBuilder(self.text_tokenizer, self.special, codebooks, self._input_steps)

    def find_speech(
        self, waveform: Tensor, sample_rate: int, vad: bool = True, max_seconds: float | None = None
    ) -> Iterator[Speech | None]:
        """Where somebody speaks in waveform [S] (or [channels, S]), pausing (None) every ten seconds; last the result.

        vad=False, or a recording too short for one code frame, which `encode` refuses: all of it is one segment.
        """
        limits = self.tokenizer.config
        long_enough = (
            waveform.ndim > 0 and waveform.shape[-1] * limits.sampling_rate >= limits.min_samples * sample_rate
        )
        if vad and long_enough:
            return find_speech_in_steps(waveform, sample_rate, max_seconds)
        return iter([Speech.whole(waveform, sample_rate)])

    @property
    def context(self) -> int:
        """Positions the backbone was made for."""
        return int(self.config.get("max_position_embeddings") or 1 << 30)

    # -- inside -----------------------------------------------------------------------------------------------

    def _checked_voice(self, voice: str | None) -> str:
        if voice is None:
            return self.voices[0]
        if "voices" in self.config and voice not in self.voices:
            raise PromptError(f"there is no voice '{voice}'; this model has {', '.join(self.voices)}.")
        if not voice or set("【】\n") & set(voice):
            raise PromptError(f"'{voice}' cannot be the name of a voice.")
        return voice

    def _waveform(self, audio: Any) -> Tensor:
        """An audio file (path, bytes, open file) or (waveform, sample_rate) -> waveform [S] at the tokenizer's rate."""
        rate = self.tokenizer.config.sampling_rate
        if isinstance(audio, (str, os.PathLike, bytes, bytearray)) or hasattr(audio, "read"):
            return load_waveform(audio, rate)
        if isinstance(audio, (tuple, list)) and len(audio) == 2 and isinstance(audio[1], Integral):
            try:
                waveform = torch.as_tensor(audio[0])
            except (TypeError, ValueError, RuntimeError) as error:
                raise AudioError(f"the waveform is no array of samples ({error}).") from error
            return prepare_waveform(waveform, int(audio[1]), rate)
        raise AudioError(
            "audio must be a path, bytes, an open file or (waveform, sample_rate), the rate a whole number of Hz."
        )

    def _read_aloud(
        self, text: str, voice: str | None, sampling: ReplySampling | None, seed: int | None
    ) -> Iterator[str | Frame | Tensor]:
        """What reading `text` aloud gives: the frames of each clause, then its codes [K, T]."""
        clauses = self.clauses_to_speak(text)
        sampling = sampling or ReplySampling.from_config(self.config)
        prompt = self.prompt_builder().system(self.system_text(None, voice)).reply(spoken=True).build()
        session = self.start(prompt.ids, prompt.codes, seed)
        return follow_frames(session, read_aloud(session, clauses, sampling, self.context))

    def _sounding(self, events: Iterable[str | Frame | Tensor]) -> Iterator[TextPiece | WaveformPiece]:
        """Text, frames and finished segments of a reply -> what the user gets of them, at once."""
        stream = SpeechStream(self)
        for event in events:
            if isinstance(event, str):
                yield TextPiece(event)
                continue
            if not isinstance(event, Tensor):
                waveform = stream.push(frames_to_codes([event], self.tokenizer.num_codebooks))
            elif not self.continuous_speech:
                waveform = stream.end_segment()
            else:
                continue
            if waveform.numel():
                yield WaveformPiece(waveform, self.sample_rate)
        rest = stream.finish()
        if rest.numel():
            yield WaveformPiece(rest, self.sample_rate)

    def _synthesize(self, hidden: Tensor) -> Tensor:
        return synthesize(self, hidden)


class Conversation:
    """A dialogue whose turns are each encoded and read once; what was said stays in the model's cache.

        conversation = model.conversation(voice="Ada")
        for piece in conversation.ask({"audio": "question.wav"}): ...
        for piece in conversation.ask("And times two?"): ...

    A reply that is not iterated to its end counts as interrupted: the next turn goes on from what was given out.
    """

    def __init__(
        self, model: BaichuanAudio, system: str, speak: bool, sampling: ReplySampling, seed: int | None, vad: bool
    ) -> None:
        self._model, self._speak, self._sampling, self._vad = model, speak, sampling, vad
        self._session = model.session_type(model.language_model, model.audio_head, model.special, seed)
        self._prompt = model.prompt_builder().system(system)  # what has been said but not yet read
        self._reply: Reply | None = None

    @property
    def session(self) -> Session:
        """The sequence so far, for those who want to see its ids."""
        return self._session

    def add(self, message: Message) -> None:
        """Add a turn that has been before, the user's or the assistant's (whose audio follows its text)."""
        if message.role == "user":
            self._prompt = self._with_user(message)
            return
        prompt = self._prompt.copy().reply(self._speak)
        for part in message.parts:
            if isinstance(part, AudioPart):
                prompt.speech(self._encode(part))
            else:
                prompt.text(part)
        self._prompt = prompt.end_reply()

    def ask(self, content: Any) -> Iterator[TextPiece | WaveformPiece]:
        """Say `content` (a text, `{"audio": audio}`, or a list of such) and get the reply as it is made.

        Raises PromptError, AudioError, or NoSpeechError where nobody speaks in the audio and there is no text, at once,
        and the dialogue stays as it was.
        """
        return self.ask_message(Message("user", parse_content(content)))

    def ask_message(self, message: Message) -> Iterator[TextPiece | WaveformPiece]:
        """`ask` for a message that has been checked."""
        if self._reply is not None:
            self._reply.close()  # an interrupted reply ends before the next turn begins
        prompt = self._with_user(message).reply(self._speak).build()
        self._check_room(len(prompt.ids))
        self._session.extend(prompt.ids, prompt.codes)
        self._prompt = self._model.prompt_builder()
        self._reply = self._answer()
        return self._reply

    def _answer(self) -> Reply:
        model, sampling = self._model, self._sampling
        if not self._speak:
            for text in write_text_reply(self._session, model.text_tokenizer, sampling.first, sampling.max_text_tokens):
                yield TextPiece(text)
            return
        events = follow_frames(self._session, spoken_reply(self._session, model.text_tokenizer, sampling))
        try:
            yield from model._sounding(events)
        finally:
            events.close()

    def _with_user(self, message: Message) -> PromptBuilder:
        """The unread prompt and the user's turn; a copy, so that bad input leaves the dialogue as it was."""
        prompt, silent = self._prompt.copy().user(), True
        before = len(prompt)
        for part in message.parts:
            if not isinstance(part, AudioPart):
                prompt.user_text(part)
                silent = silent and not part.strip()
            elif (speech := self._speech(part)).segments:
                prompt.audio(self._model.tokenizer.encode(speech.joined(), speech.sample_rate))
                silent = False
        if silent and any(isinstance(part, AudioPart) for part in message.parts):
            raise NoSpeechError(NO_SPEECH)
        if len(prompt) == before:
            raise PromptError(NO_WORDS)
        return prompt

    def _speech(self, part: AudioPart) -> Speech:
        """The speech in a part of the user's message."""
        rate = self._model.tokenizer.config.sampling_rate
        waveform = self._model._waveform(part.audio)
        return last_of(self._model.find_speech(waveform, rate, self._vad))

    def _encode(self, part: AudioPart) -> Tensor:
        tokenizer = self._model.tokenizer
        return tokenizer.encode(self._model._waveform(part.audio), tokenizer.config.sampling_rate)

    def _check_room(self, new: int) -> None:
        limit = self._model.context
        total = len(self._session.ids) + new
        if total > limit:
            raise PromptError(f"the dialogue is {total} tokens long and this model reads {limit}; begin a new one.")


def join_texts(texts: Sequence[str]) -> str:
    """Transcripts of consecutive pieces in one line; a space between words, none next to Chinese characters."""
    result = ""
    for text in filter(None, texts):
        needs_space = result and ord(result[-1]) < 0x2E80 and ord(text[0]) < 0x2E80
        result += (" " if needs_space else "") + text
    return result

"""The whole model: transcribe, speak, chat."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .audio.voice_activity import Speech, find_speech_in_steps, last_of
from .audio.waveform import load_waveform, prepare_waveform
from .audio_tokenizer.model import AudioTokenizer
from .errors import AudioError, BaichuanAudioError, PromptError
from .flow_decoder.model import FlowDecoder
from .generation.context import context_length, max_positions
from .generation.events import AudioDelta, DecodedEvent, FrameDecoded, SegmentEnd, SentenceEnd, TextDelta
from .generation.interleaving import (
    ensure_terminal_punctuation,
    interleave_min_letters,
    letters_in,
    lookahead_schedule,
    split_words,
)
from .generation.reply import ReplySampling, read_aloud
from .generation.runner import run_program
from .generation.sequence import frames_to_codes
from .generation.session import Session, SessionFactory
from .generation.transcription import TranscriptAssembler, transcription, transcription_prompt
from .language_model.audio_head import AudioHead
from .language_model.model import LanguageModel
from .language_model.prompt import (
    DEFAULT_VOICE,
    SENTENCE_MARKS,
    PromptBuilder,
    SpecialTokens,
    parse_messages,
    split_clauses,
    voice_instruction,
)
from .language_model.sampling import Sampling
from .language_model.text_tokenizer import TextTokenizer
from .layers.module_copy import module_copy
from .synthesis import Crossfader, SpeechStream, sentence_pause, synthesize
from .text.normalization import normalize_for_speech
from .text.user_input import input_steps, normalize_user_text

if TYPE_CHECKING:
    from .conversation import Conversation

NO_SPEECH = "no speech was found in the audio of this message."
_MIN_CLAUSE_CHARACTERS, _MAX_CLAUSE_CHARACTERS = 11, 200
_SHORT_TEXT = 120  # bytes in UTF-8; a text up to this length is not split


TextPiece, WaveformPiece = TextDelta, AudioDelta
"""Earlier names of the same classes, kept for one release."""
ReplyDeltas = Generator[TextDelta | AudioDelta, None, None]


class BaichuanAudio(nn.Module):
    """Audio tokenizer, language model with its audio head, flow decoder and vocoder: speech in, speech out.

    `baichuan_audio.load` makes one from a checkpoint directory. `config` is the whole `config.json`, kept for saving.
    Audio is given as a path, as the bytes of a file, as an open file, or as (waveform [S] or [channels, S],
    sample_rate in Hz).
    """

    session_factory: SessionFactory
    """Makes the sessions of this model; other paths have others (`with_parts`)."""
    inference_only: bool
    """True for an inference copy, which can be neither trained nor saved."""

    def __init__(self, config: dict[str, Any], text_tokenizer: TextTokenizer, vocoder: nn.Module) -> None:
        super().__init__()
        self.session_factory, self.inference_only = Session, False
        self.config, self.text_tokenizer = config, text_tokenizer
        self.special = SpecialTokens.from_config(config, text_tokenizer)
        self.tokenizer = AudioTokenizer.from_config(config)
        self.flow = FlowDecoder.from_config(config)
        self.language_model = LanguageModel.from_config(config)
        self.audio_head = AudioHead.from_config(config)
        self.vocoder = vocoder
        self._output_rate = int(vocoder.sample_rate)  # type: ignore[arg-type]
        self._interleave_min_letters = interleave_min_letters(config)
        self._input_steps = input_steps(config)
        self.audio_head.attach_embeddings(self.language_model.audio_embed_layers)
        self.tokenizer.attach_synthesis(self._synthesize, self.sample_rate)

    def with_parts(
        self,
        session_factory: SessionFactory = Session,
        language_model: LanguageModel | None = None,
        audio_head: AudioHead | None = None,
        flow: FlowDecoder | None = None,
    ) -> BaichuanAudio:
        """A second model over the same weights, with other parts where given; this one stays as it is.

        A model with another language model or audio head is `inference_only`. session_factory: makes its sessions.
        """
        model = module_copy(self)
        model.session_factory = session_factory
        if language_model is not None:
            model.language_model, model.inference_only = language_model, True
        if audio_head is not None:
            model.audio_head, model.inference_only = audio_head, True
            audio_head.attach_embeddings(model.language_model.audio_embed_layers)
        if flow is not None:
            model.flow = flow
        model.tokenizer = module_copy(self.tokenizer)
        model.tokenizer.attach_synthesis(model._synthesize, model.sample_rate)
        return model

    @property
    def sample_rate(self) -> int:
        """Of the waveforms it makes, in Hz."""
        return self._output_rate

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices, the default first; a checkpoint without a list may have more."""
        return tuple(self.config.get("voices") or (DEFAULT_VOICE,))

    @property
    def continuous_speech(self) -> bool:
        """Whether the audio of a reply is continuous across its segments (`interleaving.py`)."""
        return self._interleave_min_letters is not None

    def start(self, ids: Tensor | Sequence[int], codes: Tensor | None = None, seed: int | None = None) -> Session:
        """Read a prompt: ids [N], codes [K, P] with P the number of audio_pad ids -> a session that continues it.

        Raises PromptError when they do not fit each other or this model.
        """
        session = self.new_session(seed)
        session.prefill(ids, codes)
        return session

    def new_session(self, seed: int | None = None) -> Session:
        """An empty session."""
        return self.session_factory(self.language_model, self.audio_head, self.special, seed)

    @torch.no_grad()
    def transcribe(self, audio: Any, sampling: Sampling | None = None, vad: bool = True) -> str:
        """Transcribe `audio` (any length) -> text, "" where nobody speaks.

        Each segment of speech between pauses is transcribed by itself. vad=False: all of it, in pieces of
        `max_audio_seconds`. Raises AudioError when the audio cannot be used.
        """
        rate, limit = self.tokenizer.config.sampling_rate, self.tokenizer.config.max_audio_seconds
        speech = last_of(self.find_speech(self.load_audio(audio), rate, vad, limit))
        transcript = TranscriptAssembler()
        for segment in speech.pieces():
            for piece in self.tokenizer.pieces(segment, rate):
                codes = self.tokenizer.encode(piece, rate)
                prompt = transcription_prompt(self.prompt_builder(), codes)
                session = self.start(prompt.ids, prompt.codes)
                transcript.begin_piece()
                for event in run_program(session, transcription(session, self.text_tokenizer, codes, sampling)):
                    if isinstance(event, TextDelta):
                        transcript.push(event.text)
        return transcript.text

    def speak(
        self, text: str, voice: str | None = None, sampling: ReplySampling | None = None, seed: int | None = None
    ) -> Tensor:
        """Read all of `text` aloud -> waveform [S] at `sample_rate`. Numbers, signs and addresses are read as words
        (`normalize_for_speech`), a long text clause by clause.

        voice: one of `voices` by its name. Raises PromptError for a text without words or an unknown voice,
        BaichuanAudioError where the model fails to read the text to its end.
        """
        crossfader, waveforms = Crossfader(self.sample_rate), list[Tensor]()
        for sentence in self._sentences(self._read_aloud(text, voice, sampling, seed)):
            if waveforms and self.continuous_speech:
                waveforms += [crossfader.flush(), sentence_pause(self.sample_rate)]
            for codes in [torch.cat(sentence, dim=1)] if self.continuous_speech else sentence:
                waveforms += [crossfader.push(self.tokenizer.decode(codes)), crossfader.end_segment()]
        return torch.cat([*waveforms, crossfader.flush()])

    def speak_pieces(
        self, text: str, voice: str | None = None, sampling: ReplySampling | None = None, seed: int | None = None
    ) -> Iterator[AudioDelta]:
        """`speak` streamed, before a clause is finished; nearly the same waveform (docs/streaming.md)."""
        events = self._read_aloud(text, voice, sampling, seed)
        return cast("Iterator[AudioDelta]", self.synthesize_events(events))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        speak: bool = True,
        voice: str | None = None,
        sampling: ReplySampling | None = None,
        seed: int | None = None,
        vad: bool = True,
    ) -> Iterator[TextDelta | AudioDelta]:
        """Answer a dialogue; text and audio are streamed (`speak=False`: text only).

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
        """Begin a dialogue in which each turn is encoded and read once.

        system: replaces the default system text, which chooses the voice. voice: one of `voices`. vad: find the speech
        in the user's audio and shorten the silence around it; False: use the audio as it is.
        """
        from .conversation import Conversation

        text = self.system_text(system, voice)
        return Conversation(self, text, speak, sampling or ReplySampling.from_config(self.config), seed, vad)

    def system_text(self, system: str | None = None, voice: str | None = None) -> str:
        """The text of the system turn: the voice instruction, then `system`; a system text alone names no voice.

        Raises PromptError for a voice this model does not have.
        """
        chosen = voice_instruction(self._checked_voice(voice))
        system = None if system is None else normalize_user_text(system)
        return chosen if system is None else system if voice is None else chosen + system

    def clauses_to_speak(self, text: str) -> list[list[list[int]]]:
        """Text, normalized by `normalize_for_speech` -> the clauses in which it is read aloud, each as the ids of its
        text segments; one segment unless text and audio alternate within a clause.

        Raises PromptError for a text without words.
        """
        if not isinstance(text, str) or not text.strip():
            raise PromptError("there is no text to speak.")
        text = normalize_for_speech(text)
        if not text:
            raise PromptError("this text has nothing that can be spoken.")
        parts = self._parts(text)
        clauses = [[part] for part in parts]
        if letters := self._interleave_min_letters:
            sentences = split_clauses(text, letters, size=letters_in, marks=SENTENCE_MARKS)
            parts = [part for sentence in sentences for part in self._parts(sentence, letters_in)]
            runs = [split_words(ensure_terminal_punctuation(part), self.text_tokenizer, letters) for part in parts]
            clauses = [[words for words, _ in lookahead_schedule(clause)] for clause in runs]
        return [[self.text_tokenizer.encode(segment) for segment in clause] for clause in clauses]

    @staticmethod
    def _parts(text: str, size: Callable[[str], int] = len) -> list[str]:
        """The parts in which a text is read aloud; a short one is not split."""
        if len(text.encode("utf-8", "replace")) <= _SHORT_TEXT:
            return [text]
        return split_clauses(text, _MIN_CLAUSE_CHARACTERS, _MAX_CLAUSE_CHARACTERS, size)

    def prompt_builder(self) -> PromptBuilder:
        """Writes prompts with this model's text tokenizer and control tokens."""
        codebooks = len(self.language_model.codebook_sizes)
        return PromptBuilder(self.text_tokenizer, self.special, codebooks, self._input_steps)

    def find_speech(
        self, waveform: Tensor, sample_rate: int, vad: bool = True, max_seconds: float | None = None
    ) -> Iterator[Speech | None]:
        """Voice activity in waveform [S] (or [channels, S]): yields None every ten seconds of audio, last the result.

        vad=False, or a recording too short for one code frame, which `encode` rejects: all of it is one segment.
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
        """Positions that the backbone can encode."""
        return max_positions(self.config)

    @property
    def context_length(self) -> int:
        """Positions of a dialogue that the model answers well; older turns are dropped (`context.py`)."""
        return context_length(self.config)

    # -- inside -----------------------------------------------------------------------------------------------

    def _checked_voice(self, voice: str | None) -> str:
        if voice is None:
            return self.voices[0]
        if "voices" in self.config and voice not in self.voices:
            raise PromptError(f"there is no voice '{voice}'; this model has {', '.join(self.voices)}.")
        if not voice or set("【】\n") & set(voice):
            raise PromptError(f"'{voice}' cannot be the name of a voice.")
        return voice

    def load_audio(self, audio: Any) -> Tensor:
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
    ) -> Iterator[DecodedEvent]:
        """The events of reading `text` aloud."""
        clauses = self.clauses_to_speak(text)
        sampling = sampling or ReplySampling.from_config(self.config)
        prompt = self.prompt_builder().system(self.system_text(None, voice)).reply(spoken=True).build()
        session = self.start(prompt.ids, prompt.codes, seed)
        program = read_aloud(session, self.text_tokenizer, clauses, sampling, self.context)
        return _complete(run_program(session, program))

    def _sentences(self, events: Iterable[DecodedEvent]) -> Iterator[list[Tensor]]:
        """Events of reading aloud -> for each sentence the codes [K, T] of its segments, at least one."""
        segments: list[Tensor] = []
        for event in events:
            if isinstance(event, SegmentEnd):
                segments.append(event.codes)
            elif isinstance(event, SentenceEnd) and segments:
                yield segments
                segments = []
        if segments:
            yield segments

    def synthesize_events(self, events: Iterable[DecodedEvent]) -> Iterator[TextDelta | AudioDelta]:
        """Events of a spoken reply -> its text and waveform, streamed."""
        stream = SpeechStream(self)
        for event in events:
            if isinstance(event, TextDelta):
                yield event
                continue
            if isinstance(event, FrameDecoded):
                waveform = stream.push(frames_to_codes([event.codes], self.tokenizer.num_codebooks))
            elif isinstance(event, SentenceEnd) and self.continuous_speech:
                waveform = stream.end_sentence()
            elif not self.continuous_speech:
                waveform = stream.end_segment()
            else:
                continue
            if waveform.numel():
                yield AudioDelta(waveform, self.sample_rate)
        rest = stream.finish()
        if rest.numel():
            yield AudioDelta(rest, self.sample_rate)

    def _synthesize(self, hidden: Tensor) -> Tensor:
        return synthesize(self, hidden)


def _complete(events: Generator[DecodedEvent, None, str | None]) -> Iterator[DecodedEvent]:
    """The events of reading a text; raises BaichuanAudioError where it was not read to its end."""
    ending = yield from events
    if ending is not None:
        raise BaichuanAudioError(f"the text could not be read to its end ({ending}); try other words or another seed.")

"""A dialogue with one model: each turn is encoded and read once; the key-value cache is kept."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

from torch import Tensor

from .audio.voice_activity import Speech, last_of
from .errors import NoSpeechError, PromptError, PromptTooLongError
from .generation.context import prompt_budget, turns_to_drop
from .generation.events import AudioDelta, DecodedEvent, TextDelta
from .generation.reply import ReplySampling, spoken_reply, text_reply
from .generation.runaway import RUNAWAYS
from .generation.runner import run_program
from .generation.sequence import Token
from .generation.session import Session
from .language_model.prompt import NO_WORDS, AudioPart, Message, PromptBuilder, parse_content
from .model import NO_SPEECH, BaichuanAudio, ReplyDeltas


class Conversation:
    """A dialogue whose turns are each encoded and read once.

        conversation = model.conversation(voice="Ada")
        for delta in conversation.ask({"audio": "question.wav"}): ...
        for delta in conversation.ask("And times two?"): ...

    A reply that is not iterated to its end counts as interrupted: the next turn continues after the part that was
    yielded. The oldest turns are dropped where the dialogue would grow beyond the model's `context_length`.
    """

    def __init__(
        self, model: BaichuanAudio, system: str, speak: bool, sampling: ReplySampling, seed: int | None, vad: bool
    ) -> None:
        self._model, self._speak, self._sampling, self._vad = model, speak, sampling, vad
        self._session = model.new_session(seed)
        self._system_tokens = self._tokens(model.prompt_builder().system(system))
        self._turns: list[list[Token]] = []  # a user's turn and the reply to it, as they are read
        self._turn_start = 0  # position in the session where the last turn begins
        self._reply: ReplyDeltas | None = None
        self._ending: str | None = None

    @property
    def session(self) -> Session:
        """The sequence so far, to inspect its ids."""
        return self._session

    @property
    def incomplete_reason(self) -> str | None:
        """Why the last reply is incomplete: "max_output_tokens"; "repetition" or "audio_overrun" for a runaway reply,
        which is left out of the dialogue. None for a complete reply, and while one is being made."""
        return "max_output_tokens" if self._ending == "limit" else self._ending

    def add(self, message: Message) -> None:
        """Add an earlier turn, the user's or the assistant's (whose audio follows its text)."""
        if message.role == "user":
            self._turns = [*self._earlier(), self._with_user(message)]
            return
        prompt = self._model.prompt_builder().reply(self._speak)
        for part in message.parts:
            if isinstance(part, AudioPart):
                prompt.speech(self._encode(part))
            else:
                prompt.text(part)
        self._turns[-1:] = [[*itertools.chain(*self._turns[-1:]), *self._tokens(prompt.end_reply())]]

    def ask(self, content: Any) -> Iterator[TextDelta | AudioDelta]:
        """Ask `content` (a text, `{"audio": audio}`, or a list of such) -> the reply, streamed.

        Raises PromptError, AudioError, or NoSpeechError where nobody speaks in the audio and there is no text, at once,
        and the dialogue stays as it was.
        """
        return self.ask_message(Message("user", parse_content(content)))

    def ask_message(self, message: Message) -> Iterator[TextDelta | AudioDelta]:
        """`ask` for a message that has been checked."""
        self._end_reply()
        turns = [*self._earlier(), self._with_user(message)]
        mark = self._tokens(self._model.prompt_builder().reply(self._speak))
        rest = len(self._system_tokens) + len(mark)
        kept = turns[turns_to_drop(rest, [len(turn) for turn in turns], self._model.context_length) :]
        prompt = [*self._system_tokens, *itertools.chain(*kept), *mark]
        if len(prompt) > prompt_budget(self._model.context):
            raise PromptTooLongError(
                f"system text and message are {len(prompt)} tokens long, and at most "
                f"{prompt_budget(self._model.context)} can be answered; shorten them."
            )
        self._turns, self._ending = kept, None
        self._turn_start = len(prompt) - len(mark) - len(kept[-1])
        self._session.set_tokens(prompt)
        self._reply = self._deltas()
        return self._reply

    def _deltas(self) -> ReplyDeltas:
        events = self._events()
        try:
            if self._speak:
                yield from self._model.synthesize_events(events)
            else:
                for event in events:
                    assert isinstance(event, TextDelta)
                    yield event
        finally:
            events.close()

    def _events(self) -> Generator[DecodedEvent, None, None]:
        """The events of the reply; records why it ended."""
        session, tokenizer, sampling = self._session, self._model.text_tokenizer, self._sampling
        if self._speak:
            program = spoken_reply(session, tokenizer, sampling)
        else:
            program = text_reply(session, tokenizer, sampling.first, sampling.max_text_tokens)
        self._ending = yield from run_program(session, program)

    def _end_reply(self) -> None:
        """Add the last reply to its turn, interrupting it where it is not complete; a runaway reply is left out."""
        if self._reply is None:
            return
        self._reply.close()
        self._reply = None
        if self._ending not in RUNAWAYS:
            turn, end = self._session.tokens[self._turn_start :], self._model.special.end_of_text
            self._turns[-1] = turn if turn[-1] == end else [*turn, end]

    def _earlier(self) -> list[list[Token]]:
        """The turns that have a reply."""
        return self._turns[:-1] if self._is_unanswered() else self._turns

    def _is_unanswered(self) -> bool:
        """Whether the last turn has no reply, so that the next user message belongs to it."""
        return bool(self._turns) and self._turns[-1][-1] != self._model.special.end_of_text

    def _with_user(self, message: Message) -> list[Token]:
        """The user's turn, after earlier user messages without a reply."""
        unanswered = self._is_unanswered()
        prompt = self._model.prompt_builder() if unanswered else self._model.prompt_builder().user()
        before, silent = len(prompt), True
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
        return [*(self._turns[-1] if unanswered else []), *self._tokens(prompt)]

    def _speech(self, part: AudioPart) -> Speech:
        """Voice activity in an audio part of the user's message."""
        rate = self._model.tokenizer.config.sampling_rate
        waveform = self._model.load_audio(part.audio)
        return last_of(self._model.find_speech(waveform, rate, self._vad))

    def _encode(self, part: AudioPart) -> Tensor:
        tokenizer = self._model.tokenizer
        return tokenizer.encode(self._model.load_audio(part.audio), tokenizer.config.sampling_rate)

    def _tokens(self, prompt: PromptBuilder) -> list[Token]:
        """A prompt as the positions of a sequence."""
        built = prompt.build()
        return self._model.language_model.tokens(built.ids, built.codes)

"""One dialogue on the engine: the asyncio side of a slot."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import NoSpeechError, PromptError
from ..generation.reply import ReplySampling, spoken_reply, text_reply
from ..generation.runner import ReplyProgram
from ..generation.sequence import Token, TokenSequence
from ..language_model.prompt import NO_WORDS
from ..language_model.text_tokenizer import LONG_TEXT
from ..model import NO_SPEECH
from ..text.user_input import normalize_user_text
from .history import History, HistoryItem
from .reply_stream import ReplyStream
from .slot_allocator import SlotAllocator
from .types import AudioInput
from .worker import DialogueState

T = TypeVar("T")


class Dialogue:
    """A dialogue in a slot of its own, from `Engine.open` to `close`.

    Its items are messages of user, assistant and system in order; the model reads those it has not read before when a
    reply is requested. All methods belong to one asyncio loop. They raise PromptError for input that the dialogue
    cannot use, EngineStopped after the engine has been stopped.
    """

    def __init__(
        self,
        allocator: SlotAllocator,
        slot: int,
        system: str | None,
        voice: str | None,
        seed: int | None,
        adapter: str | None = None,
    ) -> None:
        self._allocator, self._model = allocator, allocator.model
        self._commands, self._replies = allocator.worker.commands, allocator.worker.replies
        self._system, self._voice = system, voice
        self._state = DialogueState(slot, History(allocator.model, allocator.capacity), seed, adapter)
        self._reply: ReplyStream | None = None
        self._numbers = itertools.count(1)
        self._encoded: tuple[Tensor, int, asyncio.Task[list[Tensor]]] | None = None
        self._encoding: set[asyncio.Task[list[Tensor]]] = set()
        self._closed = False

    @property
    def adapter(self) -> str | None:
        """The adapter that answers; None: the base."""
        return self._state.adapter

    # -- items ----------------------------------------------------------------------------------------------------

    async def add_user(
        self, parts: list[str | AudioInput], item_id: str | None = None, after: str | None = None
    ) -> str:
        """Add a user message, texts and audio in order -> the item's id. Audio is encoded at once.

        after: id of the item before it, "root" for the front; None: the end. Raises PromptError, AudioError, or
        NoSpeechError where nobody speaks in the audio and there is no text; the dialogue stays as it was. A reply
        requested meanwhile waits for it.
        """
        if not parts or any(isinstance(part, str) and not part for part in parts):
            raise PromptError("a message has no content; give a text or audio.")
        self._check_audio(part for part in parts if isinstance(part, AudioInput) and not part.vad)
        self._state.history.check_text("".join(part for part in parts if isinstance(part, str)))
        item = HistoryItem(self._id(item_id), "user", ready=False)
        await self._run(lambda: self._state.history.add(item, after))
        try:
            prompt = self._model.prompt_builder()
            for part in await self._remove_silence(parts):
                if isinstance(part, AudioInput):
                    prompt.audio(torch.cat(await self._encode(part.waveform, part.sample_rate), dim=1))
                else:
                    await _encode_text(prompt.user_text, part)
            if not len(prompt):
                raise PromptError(NO_WORDS)
            await self._run(partial(self._fill, item, self._allocator.tokens(prompt)))
        except BaseException:
            self._commands.post(partial(self._drop, item))
            raise
        return item.id

    async def add_assistant(self, text: str, item_id: str | None = None) -> str:
        """Add an earlier reply as text -> the item's id."""
        item = HistoryItem(self._id(item_id), "assistant")
        self._state.history.check_text(text)
        item.tokens = await _encode_text(self._state.history.text_reply_tokens, text)
        self._state.history.check_size(item)
        await self._run(lambda: self._state.history.add(item))
        return item.id

    async def add_system(self, text: str, item_id: str | None = None) -> str:
        """Add a line to the system text, wherever in the dialogue it is -> the item's id."""
        self._state.history.check_text(text)
        text = normalize_user_text(text)
        await _encode_text(self._model.text_tokenizer.encode, text)  # raises for text that cannot be encoded
        item = HistoryItem(self._id(item_id), "system", text=text)
        await self._run(lambda: self._state.history.add(item))
        return item.id

    async def delete(self, item_id: str) -> None:
        """Remove an item. The items before it need not be read again."""

        def remove() -> None:
            self._state.history.remove(item_id)
            self._replies.resume_waiting(self._state)

        await self._run(remove)

    async def truncate(self, item_id: str, played_seconds: float) -> str:
        """Truncate a spoken reply to its played part (see `History.truncate`) -> the remaining text."""
        text: str = await self._run(lambda: self._state.history.truncate(item_id, played_seconds))
        return text

    # -- replies --------------------------------------------------------------------------------------------------

    def configure(self, system: str | None = None, voice: str | None = None) -> None:
        """Change system text or voice (None: unchanged) from the next reply on. PromptError for an unknown voice."""
        self._check_open()
        self._model.system_text(system, voice)
        self._system = self._system if system is None else system
        self._voice = self._voice if voice is None else voice

    def reply(
        self,
        speak: bool = True,
        sampling: ReplySampling | None = None,
        max_tokens: int | None = None,
        instructions: str | None = None,
        item_id: str | None = None,
        remember: bool = True,
    ) -> ReplyStream:
        """Request a reply; a dialogue that cannot be answered ends in ReplyDone with the status "failed".

        max_tokens: text tokens and code frames together. instructions: replace the system text for this reply.
        item_id: of the reply's item, which exists once the reply has begun. remember: whether it becomes an item.
        Raises PromptError while another reply of this dialogue is in progress.
        """
        self._check_open()
        if self._reply is not None and not self._reply.over:
            raise PromptError("a reply is being made; cancel it or wait for its end.")
        if max_tokens is not None and max_tokens < 1:
            raise PromptError(f"max_tokens must be at least 1, not {max_tokens}.")
        sampling = sampling or ReplySampling.from_config(self._model.config)
        system = self._model.system_text(self._system if instructions is None else instructions, self._voice)
        item = HistoryItem(self._id(item_id), "assistant") if remember else None
        reply = self._reply = self._allocator.new_reply()
        program = partial(self._program, speak, sampling)
        self._commands.post(
            partial(self._replies.begin_in_dialogue, self._state, reply, system, speak, program, max_tokens, item)
        )
        return reply

    async def transcript(self, waveform: Tensor, sample_rate: int) -> str:
        """Transcribe `waveform` [S], one segment of speech; audio just encoded here is not encoded again.

        Runs in a spare slot beside the replies; waits while all spare slots are taken. Raises AudioError.
        """
        self._check_open()
        return await self._allocator.transcribe_codes(await self._encode(waveform, sample_rate), self.adapter)

    async def close(self) -> None:
        """End the reply in progress and free the slot at once. A second call has no effect."""
        if self._closed:
            return
        if self._reply is not None:
            self._reply.cancel("closed")
        self._closed = True
        for task in self._encoding:
            task.cancel()
        self._commands.post(self._replies.discard_settled)
        self._allocator.release(self._state.slot)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise PromptError("the dialogue is closed.")
        self._allocator.check_running()

    def _id(self, item_id: str | None) -> str:
        return item_id if item_id is not None else f"item_{next(self._numbers)}"

    async def _run(self, function: Any) -> Any:
        """Run `function` on the worker's thread, which owns the history."""
        self._check_open()
        return await self._commands.call(function)

    def _check_audio(self, audio: Iterable[AudioInput]) -> None:
        """Raise PromptTooLongError for more audio than can be answered."""
        self._state.history.check_audio(sum(part.seconds for part in audio))

    async def _remove_silence(self, parts: list[str | AudioInput]) -> list[str | AudioInput]:
        """The parts of a message; audio without long pauses, and audio without speech left out."""
        kept: list[str | AudioInput] = []
        for part in parts:
            if isinstance(part, str) or not part.vad:
                kept.append(part)
            elif (speech := await self._allocator.find_speech(part)).segments:
                kept.append(AudioInput(speech.joined(), speech.sample_rate, vad=False))
        if not any(isinstance(part, AudioInput) or part.strip() for part in kept) and len(kept) < len(parts):
            raise NoSpeechError(NO_SPEECH)
        self._check_audio(part for part in kept if isinstance(part, AudioInput))
        return kept

    async def _encode(self, waveform: Tensor, sample_rate: int) -> list[Tensor]:
        """Codes [K, T] of each piece of the waveform; the last result is cached, for its transcript."""
        last = self._encoded
        if last is None or last[0] is not waveform or last[1] != sample_rate or last[2].cancelled():
            task = asyncio.create_task(self._allocator.encode(waveform, sample_rate))
            self._encoding.add(task)
            task.add_done_callback(self._encoded_one)
            last = self._encoded = (waveform, sample_rate, task)
        try:
            return await asyncio.shield(last[2])
        except asyncio.CancelledError:
            if self._closed and last[2].cancelled():
                raise PromptError("the dialogue is closed.") from None
            raise

    def _encoded_one(self, task: asyncio.Task[list[Tensor]]) -> None:
        self._encoding.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved; a waiting task raises it

    def _fill(self, item: HistoryItem, tokens: list[Token]) -> None:
        """Complete a user item that has been encoded; a reply may be waiting for it."""
        item.tokens, item.ready = tokens, True
        self._state.history.check_size(item)
        self._replies.resume_waiting(self._state)

    def _drop(self, item: HistoryItem) -> None:
        """Remove a user item that could not be encoded."""
        if item in self._state.history.items:
            self._state.history.items.remove(item)
        self._replies.resume_waiting(self._state)

    def _program(self, speak: bool, sampling: ReplySampling, sequence: TokenSequence) -> ReplyProgram:
        tokenizer = self._model.text_tokenizer
        if speak:
            return spoken_reply(sequence, tokenizer, sampling)
        return text_reply(sequence, tokenizer, sampling.first, sampling.max_text_tokens)


async def _encode_text(function: Callable[[str], T], text: str) -> T:
    """`function(text)`, which encodes it; a long text in a thread, so that the loop is not blocked."""
    return await asyncio.to_thread(function, text) if len(text) > LONG_TEXT else function(text)

"""POST /v1/chat/completions: text and audio in, text and audio out, whole or streamed."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fastapi import APIRouter, Request

from ...engine import AudioDelta, AudioInput, Dialogue, ReplyDone, ReplyEvent, TextDelta, Usage
from ...errors import NoSpeechError, PromptError
from ...generation.reply import ReplySampling
from ..adapters import choose_adapter
from ..audio.output import encode, pcm16
from ..audio.voices import choose_voice
from ..errors import ApiError, as_api_error, bad_request
from .chat_types import (
    AssistantMessage,
    ChatCompletion,
    ChatRequest,
    ChatUsage,
    Choice,
    CompletionDetails,
    InputAudio,
    Message,
    PromptDetails,
    ReplyAudio,
    ReplyMessage,
    SystemMessage,
    TextPart,
    UserMessage,
)
from .openapi import error_responses, other_content
from .reply_store import ReplyStore, StopSequenceFilter
from .streaming import EVENT_STREAM, RequestTrace, StreamedResponse, event

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    operation_id="create_chat_completion",
    response_model=ChatCompletion,
    responses={200: other_content("The reply, or events that carry it.", EVENT_STREAM), **error_responses()},
)
async def create_chat_completion(request: Request, body: ChatRequest) -> StreamedResponse:
    """Answer a dialogue. With `stream`, server-sent events as OpenAI sends them; audio is then 16-bit PCM at 24 kHz."""
    _check(body)
    handler = ChatHandler(request, body)
    if body.stream:
        return StreamedResponse(handler.stream(), EVENT_STREAM)
    return StreamedResponse(handler.whole(), "application/json")


def _check(body: ChatRequest) -> None:
    """Fields that depend on each other."""
    if body.speak and body.audio is None:
        raise bad_request("'audio' is missing; a spoken reply needs its voice and format.", "audio", "missing_audio")
    if body.speak and body.stream and body.audio is not None and body.audio.format != "pcm16":
        raise bad_request("'audio.format' must be 'pcm16' when streaming.", "audio.format", "unsupported_format")
    if body.speak and body.stops:
        raise bad_request("'stop' works for text replies only.", "stop")
    if not isinstance(body.messages[-1], UserMessage):
        raise bad_request("'messages' must end with a message of the user's.", "messages")


@dataclass
class _ChatProgress:
    """What has been sent of a reply; `finish_reason` counts once it has ended."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"


class ChatHandler:
    """One chat completion."""

    def __init__(self, request: Request, body: ChatRequest) -> None:
        self._state: Any = request.app.state
        self._body = body
        self._replies: ReplyStore = self._state.replies
        self._owner = self._replies.owner(request)
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._audio_in_s = 0.0
        self._adapter = choose_adapter(self._state.engine, self._state.settings, body.model)
        self._model_name = self._adapter or self._state.settings.model_name
        self._trace = RequestTrace(self._state, "chat", request.scope["state"]["request_id"], self._id)

    async def whole(self) -> AsyncGenerator[bytes, None]:
        """The completion as one JSON object."""
        progress, waves = _ChatProgress(), [torch.zeros(0)]
        async with self._events(progress) as events:
            async for reply_event in events:
                if isinstance(reply_event, AudioDelta):
                    waves.append(reply_event.waveform)
        message = ReplyMessage(content=progress.text)
        if self._body.speak and self._body.audio:
            format = self._body.audio.format.removesuffix("16")
            data = await encode(torch.cat(waves), format, self._state.engine.sample_rate)
            audio_id, expires_at = self._replies.keep(self._owner, progress.text)
            audio = ReplyAudio(
                id=audio_id, data=base64.b64encode(data).decode(), expires_at=expires_at, transcript=progress.text
            )
            message = ReplyMessage(content=None, audio=audio)
        completion = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model_name,
            choices=[Choice(message=message, finish_reason=progress.finish_reason)],  # type: ignore[arg-type]
            usage=_usage(progress.usage),
        )
        yield completion.model_dump_json().encode()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The completion as events."""
        progress = _ChatProgress()
        audio_id = f"audio_{secrets.token_hex(12)}" if self._body.speak else None
        first: dict[str, Any] = {"role": "assistant"}
        first |= {"audio": {"id": audio_id}, "content": None} if audio_id else {"content": "", "refusal": None}
        async with self._events(progress) as events:
            async for reply_event in events:
                if first:
                    yield self._chunk(first)
                    first = {}
                if isinstance(reply_event, AudioDelta):
                    data = base64.b64encode(pcm16(reply_event.waveform).tobytes()).decode()
                    yield self._chunk({"audio": {"data": data}})
                elif isinstance(reply_event, TextDelta):
                    text = reply_event.text
                    yield self._chunk({"audio": {"transcript": text}} if audio_id else {"content": text})
        if first:
            yield self._chunk(first)
        if audio_id:
            _, expires_at = self._replies.keep(self._owner, progress.text, audio_id)
            yield self._chunk({"audio": {"expires_at": expires_at}})
        yield self._chunk({}, progress.finish_reason)
        if self._wants_usage:
            yield self._event([], _usage(progress.usage).model_dump())
        yield event("[DONE]")

    @asynccontextmanager
    async def _events(self, progress: _ChatProgress) -> AsyncIterator[AsyncIterator[ReplyEvent]]:
        """Open a dialogue, generate its reply, and close it whatever happens; `progress` is filled on the way."""
        body, engine = self._body, self._state.engine
        with self._trace:
            system = "\n".join(m.text for m in body.messages if isinstance(m, SystemMessage)) or None
            named = body.audio.voice_name if body.audio else None
            if named is None and body.speak:
                named = "default"  # beside a system text the model takes a voice only from its name
            voice = choose_voice(engine, named, "audio.voice")
            dialogue: Dialogue = engine.open(system=system, voice=voice, seed=body.seed, adapter=self._adapter)
            try:
                for number, role, parts in await self._turns():
                    if role == "user":
                        await _add_user(dialogue, parts, f"messages[{number}].content")
                    else:
                        await dialogue.add_assistant("\n".join(str(part) for part in parts))
                reply = dialogue.reply(
                    speak=body.speak, sampling=self._sampling(), max_tokens=body.max_reply_tokens, remember=False
                )
                async with aclosing(self._reply_events(reply, progress)) as events:
                    yield events
            finally:
                await dialogue.close()

    async def _reply_events(self, reply: Any, progress: _ChatProgress) -> AsyncGenerator[ReplyEvent, None]:
        """The reply's events but the last, which becomes a finish reason or an error."""
        stop = StopSequenceFilter(self._body.stops)
        async with aclosing(self._trace.limited(reply)) as events:
            async for reply_event in events:
                if isinstance(reply_event, ReplyDone):
                    self._end(reply_event, progress)
                    break
                if isinstance(reply_event, AudioDelta):
                    self._trace.audio_out(reply_event)
                    yield reply_event
                    continue
                text = stop.push(reply_event.text)
                progress.text += text
                if text:
                    yield TextDelta(text)
                if stop.matched:
                    reply.cancel("stop")
        rest = stop.flush()
        if rest:
            progress.text += rest
            yield TextDelta(rest)
        self._trace.note_content(reply=progress.text)

    def _end(self, done: ReplyDone, progress: _ChatProgress) -> None:
        self._trace.note(status=done.status, reason=done.reason)
        progress.usage = done.usage
        if done.status == "incomplete":
            progress.finish_reason = "length"
        elif done.error is not None:
            raise bad_request(str(done.error), "messages", as_api_error(done.error).code)
        elif done.status == "failed":
            raise ApiError(500, "the reply could not be finished.", code="reply_failed")
        elif done.status == "cancelled" and done.reason != "stop":
            self._trace.outcome = done.reason or "cancelled"
            raise ApiError(503, "the server ended this reply.", code=done.reason)
        self._trace.outcome = "completed"

    async def _turns(self) -> list[tuple[int, str, list[Any]]]:
        """The messages after the system's, neighbours of one role as one turn.

        (number of its first message, "user" or "assistant", parts) of each.
        """
        turns: list[tuple[int, str, list[Any]]] = []
        for number, message in enumerate(self._body.messages):
            if isinstance(message, SystemMessage):
                continue
            parts = await self._parts(message, f"messages[{number}]")
            if not turns or turns[-1][1] != message.role:
                turns.append((number, message.role, []))
            turns[-1][2].extend(parts)
        self._trace.audio_in(self._audio_in_s)
        self._trace.note(turns=len(turns), audio_in_s=round(self._audio_in_s, 3))
        return turns

    async def _parts(self, message: Message, where: str) -> list[Any]:
        if isinstance(message, AssistantMessage):
            if message.audio is None:
                return [message.text] if message.text else []
            return [self._replies.recall(self._owner, message.audio.id, f"{where}.audio.id")]
        assert isinstance(message, UserMessage)
        if isinstance(message.content, str):
            return [message.content]
        return [
            part.text
            if isinstance(part, TextPart)
            else await self._audio(part.input_audio, f"{where}.content[{index}]")
            for index, part in enumerate(message.content)
        ]

    async def _audio(self, audio: InputAudio, where: str) -> AudioInput:
        left = self._state.settings.max_audio_seconds - self._audio_in_s
        param = f"{where}.input_audio"
        waveform, sample_rate = await self._state.reader.base64(audio.data, audio.format or "", left, param)
        self._audio_in_s += waveform.shape[-1] / sample_rate
        return AudioInput(waveform, sample_rate)

    def _sampling(self) -> ReplySampling | None:
        """The model's sampling with the temperature and top_p of the request; None without them."""
        requested = {"temperature": self._body.temperature, "top_p": self._body.top_p}
        changes: dict[str, Any] = {name: value for name, value in requested.items() if value is not None}
        if not changes:
            return None
        sampling = ReplySampling.from_config(self._state.engine.model.config)
        return replace(sampling, first=replace(sampling.first, **changes), later=replace(sampling.later, **changes))

    @property
    def _wants_usage(self) -> bool:
        return bool(self._body.stream_options and self._body.stream_options.include_usage)

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return self._event([{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}])

    def _event(self, choices: list[Any], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model_name,
            "choices": choices,
        }
        return event(chunk | {"usage": usage} if self._wants_usage else chunk)


async def _add_user(dialogue: Dialogue, parts: list[Any], param: str) -> None:
    """Add a user's turn. Raises ApiError 400, "no_speech" where nobody speaks in its audio."""
    try:
        await dialogue.add_user(parts)
    except (NoSpeechError, PromptError) as error:
        raise bad_request(f"'{param}': {error}", param, as_api_error(error).code) from None


def _usage(usage: Usage) -> ChatUsage:
    read = usage.input_text_tokens + usage.input_audio_tokens
    written = usage.output_text_tokens + usage.output_audio_tokens
    return ChatUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptDetails(cached_tokens=usage.cached_tokens, audio_tokens=usage.input_audio_tokens),
        completion_tokens_details=CompletionDetails(audio_tokens=usage.output_audio_tokens),
    )

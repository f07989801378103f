"""POST /v1/audio/speech: text to speech, in any format, streamed."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Request, Response
from pydantic import Field
from torch import Tensor

from ...errors import PromptError
from ..audio.output import MEDIA_TYPES, AudioEncoder, AudioFormat
from ..audio.time_stretch import TimeStretch
from ..audio.voices import choose_voice
from ..errors import as_api_error, bad_request
from ..validation import Identifier, Text
from .chat_types import RequestModel, Seed, VoiceId
from .openapi import error_responses, other_content
from .streaming import EVENT_STREAM, RequestTrace, StreamedResponse, event

router = APIRouter()
_FRAMES_PER_SECOND = 12.5


class SpeechRequest(RequestModel):
    """A text to read aloud. Any `model` is accepted; `instructions` have no effect.

    speed: 2.0 is twice as fast, at the same pitch. stream_format: `sse` sends events with base64, `audio` the bytes.
    seed: the same seed reads a text the same way again.
    """

    model: str
    input: Annotated[Text, Field(min_length=1)]
    voice: Identifier | VoiceId | None = None
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str | None = None
    seed: Seed | None = None


@router.post(
    "/v1/audio/speech",
    operation_id="create_speech",
    response_class=Response,
    responses={
        200: other_content("The speech, or events that carry it.", *MEDIA_TYPES.values(), EVENT_STREAM),
        **error_responses(),
    },
)
async def create_speech(request: Request, body: SpeechRequest) -> StreamedResponse:
    """Read a text aloud; audio is sent while it is generated."""
    limit = request.app.state.settings.max_input_characters
    if len(body.input) > limit:
        raise bad_request(f"'input' may have at most {limit} characters.", "input")
    handler = SpeechHandler(request, body)
    if body.stream_format == "sse":
        return StreamedResponse(handler.events(), EVENT_STREAM)
    return StreamedResponse(handler.audio(), MEDIA_TYPES[body.response_format])


class SpeechHandler:
    """One request."""

    def __init__(self, request: Request, body: SpeechRequest) -> None:
        self._state: Any = request.app.state
        self._body = body
        self._trace = RequestTrace(
            self._state, "speech", request.scope["state"]["request_id"], f"speech_{secrets.token_hex(12)}"
        )
        self._seconds = 0.0

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the audio file as they are generated."""
        engine, body = self._state.engine, self._body
        with self._trace:
            name = body.voice.id if isinstance(body.voice, VoiceId) else body.voice
            voice = choose_voice(engine, name)
            encoder = AudioEncoder(body.response_format, engine.sample_rate)
            self._trace.note_content(input=body.input)
            text = body.input
            if not text.strip():
                raise bad_request("'input' has nothing that can be spoken.", "input")
            async with aclosing(self._sound(text, voice)) as pieces:
                try:
                    async for piece in pieces:
                        data = encoder.push(piece)
                        if data:
                            yield data
                except PromptError as error:
                    raise bad_request(f"input: {error}", "input", as_api_error(error).code) from None
            rest = await encoder.finish()
            if rest:
                yield rest
            self._trace.outcome = "completed"

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The same in events."""
        async with aclosing(self.audio()) as pieces:
            async for data in pieces:
                yield event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        read = len(self._state.engine.model.text_tokenizer.encode(self._body.input))
        written = round(self._seconds * _FRAMES_PER_SECOND)
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        yield event({"type": "speech.audio.done", "usage": usage})

    async def _sound(self, text: str, voice: str | None) -> AsyncGenerator[Tensor, None]:
        """The engine's audio at the speed of the request."""
        speed = self._body.speed
        stretch = TimeStretch(self._state.engine.sample_rate, speed) if speed != 1.0 else None
        async with aclosing(self._trace.limited(self._state.engine.speak(text, voice, self._body.seed))) as deltas:
            async for delta in deltas:
                self._trace.audio_out(delta)
                self._seconds += delta.waveform.shape[-1] / delta.sample_rate
                yield delta.waveform if stretch is None else torch.from_numpy(stretch.push(delta.waveform.numpy()))
        if stretch is not None:
            yield torch.from_numpy(stretch.flush())

"""POST /v1/audio/transcriptions: an audio file to text, JSON, subtitles, or streamed text."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel

from ...engine import AudioInput, TranscriptDelta
from ...text.language import NAMES, language_of
from ..adapters import choose_adapter
from ..errors import bad_request
from .openapi import error_responses, other_content
from .streaming import EVENT_STREAM, RequestTrace, StreamedResponse, event
from .subtitles import Segment, srt, verbose, vtt

router = APIRouter()
TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
_MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


class DurationUsage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class Transcription(BaseModel):
    text: str
    usage: DurationUsage


class TranscriptSegment(BaseModel):
    """One stretch of speech between pauses. What this model does not estimate is 0."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(Transcription):
    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    segments: list[TranscriptSegment]


@router.post(
    "/v1/audio/transcriptions",
    operation_id="create_transcription",
    response_model=Transcription | VerboseTranscription,
    responses={
        200: other_content("The transcript.", *set(_MEDIA_TYPES.values()) - {"application/json"}, EVENT_STREAM),
        **error_responses(),
    },
)
async def create_transcription(
    request: Request,
    file: UploadFile,
    model: Annotated[str, Form(min_length=1)],
    response_format: Annotated[TranscriptFormat, Form()] = "json",
    stream: Annotated[bool, Form()] = False,
    language: Annotated[str | None, Form(max_length=32)] = None,
    prompt: Annotated[str | None, Form()] = None,
    temperature: Annotated[float | None, Form(ge=0, le=1, allow_inf_nan=False)] = None,
    granularities: Annotated[list[Literal["segment"]] | None, Form(alias="timestamp_granularities[]")] = None,
) -> StreamedResponse:
    """Transcribe a file: wav, mp3, m4a, webm, flac, ogg and others; its content decides, not its name.

    `model` may name an adapter. `language` is repeated in verbose_json; `prompt` and `temperature` have no effect. Each
    stretch of speech between pauses is transcribed by itself; where nobody speaks the text is empty. Subtitles and
    verbose_json have a segment for each; there are no word timestamps.
    """
    if stream and response_format not in ("json", "text"):
        raise bad_request("'response_format' must be 'json' or 'text' when streaming.", "response_format")
    data = await file.read()
    if not data:
        raise bad_request("'file' is empty.", "file", "invalid_audio")
    handler = TranscriptionHandler(request, data, language, model)
    if stream:
        return StreamedResponse(handler.stream(), EVENT_STREAM)
    return StreamedResponse(handler.whole(response_format), _MEDIA_TYPES[response_format])


class TranscriptionHandler:
    """One request."""

    def __init__(self, request: Request, data: bytes, language: str | None, model: str) -> None:
        self._state: Any = request.app.state
        self._adapter = choose_adapter(self._state.engine, self._state.settings, model)
        self._data, self._language = data, language
        self._seconds = 0.0
        self._trace = RequestTrace(
            self._state, "transcription", request.scope["state"]["request_id"], f"transcript_{secrets.token_hex(12)}"
        )

    async def whole(self, format: TranscriptFormat) -> AsyncGenerator[bytes, None]:
        """The transcript in one piece."""
        segments: list[Segment] = []
        text = ""
        with self._trace:
            async with self._reserved_slot():
                audio = await self._read()
            async with aclosing(self._deltas(audio)) as deltas:
                async for delta in deltas:
                    text += delta.text
                    previous = segments.pop().text if segments and segments[-1].start == delta.start else ""
                    segments.append(Segment(delta.start, delta.end, (previous + delta.text).lstrip()))
            self._done(text)
        usage = DurationUsage(seconds=self._seconds)
        if format == "json":
            yield Transcription(text=text, usage=usage).model_dump_json().encode()
        elif format == "verbose_json":
            language = self._language or NAMES[language_of(text) or "en"]
            yield (
                VerboseTranscription(
                    text=text,
                    usage=usage,
                    language=language,
                    duration=self._seconds,
                    segments=[TranscriptSegment(**fields) for fields in verbose(segments)],
                )
                .model_dump_json()
                .encode()
            )
        else:
            formats = {"text": f"{text}\n", "srt": srt(segments), "vtt": vtt(segments)}
            yield formats[format].encode()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The transcript in events, as it is generated."""
        pieces: list[str] = []
        with self._trace:
            async with self._reserved_slot():
                audio = await self._read()
            async with aclosing(self._deltas(audio)) as deltas:
                async for delta in deltas:
                    pieces.append(delta.text)
                    yield event({"type": "transcript.text.delta", "delta": delta.text})
            self._done("".join(pieces))
        yield event({"type": "transcript.text.done", "text": "".join(pieces)})

    @asynccontextmanager
    async def _reserved_slot(self) -> AsyncIterator[None]:
        """Hold a slot while the file is decoded, so that no work is wasted. Raises EngineFull.

        `transcribe` takes it again at once: nothing is awaited in between that would let another task run.
        """
        slot = self._state.engine.open()
        try:
            yield
        finally:
            await slot.close()

    async def _read(self) -> AudioInput:
        """Decode the file, and free its bytes."""
        data, self._data = self._data, b""
        audio = AudioInput(*await self._state.reader.file(data, self._state.settings.max_audio_seconds, "file"))
        self._seconds = round(audio.waveform.shape[-1] / audio.sample_rate, 3)
        return audio

    def _deltas(self, audio: AudioInput) -> AsyncGenerator[TranscriptDelta, None]:
        transcript = self._state.engine.transcribe(audio.waveform, audio.sample_rate, adapter=self._adapter)
        return self._trace.limited(transcript)

    def _done(self, text: str) -> None:
        self._trace.audio_in(self._seconds)
        self._trace.note(audio_in_s=self._seconds)
        self._trace.note_content(text=text)
        self._trace.outcome = "completed"

"""Requests and responses of chat completions: the fields that are read, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..validation import Identifier, Metadata, Text, refusal

_REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "n": (None, 1),
    "web_search_options": (None,),
}
"""Fields that this model cannot serve, and their values without effect."""
_UNUSED_WITH_NONE = {"tools": "tool_choice", "functions": "function_call"}
"""Tools have no effect where the choice among them is "none"."""


Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""The same request with the same seed is sampled the same way."""


class RequestModel(BaseModel):
    """Base of request bodies: unknown fields are ignored, numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class TextPart(RequestModel):
    type: Literal["text"]
    text: Text


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: Text


class InputAudio(RequestModel):
    """Audio in base64 or as a data URL: a file (wav, mp3, m4a, webm, flac, ogg ...; its content decides, whatever
    `format` says), or bare 16-bit samples at 24 kHz (`pcm16`)."""

    data: str
    format: Annotated[str, Field(max_length=64)] | None = None


class InputAudioPart(RequestModel):
    type: Literal["input_audio"]
    input_audio: InputAudio


UserPart = Annotated[TextPart | InputAudioPart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemMessage(RequestModel):
    role: Literal["system", "developer"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class UserMessage(RequestModel):
    role: Literal["user"]
    content: Text | Annotated[list[UserPart], Field(min_length=1)]


class AudioReference(RequestModel):
    id: Identifier


class AssistantMessage(RequestModel):
    """An earlier reply: its text, or the `id` of its audio, which stands for its transcript."""

    role: Literal["assistant"]
    content: Text | list[AssistantPart] | None = None
    audio: AudioReference | None = None

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class VoiceId(RequestModel):
    id: Identifier


class AudioOutput(RequestModel):
    """Voice and format (pcm16 when streaming) of the spoken reply."""

    voice: Identifier | VoiceId | None = None
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]

    @property
    def voice_name(self) -> str | None:
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice


class StreamOptions(RequestModel):
    include_usage: bool | None = None


class ResponseFormat(RequestModel):
    type: Literal["text"]


class ChatRequest(RequestModel):
    """A dialogue to be answered, as in OpenAI's chat completions.

    Fields for what this model cannot do (tools, several choices, log probabilities, penalties) are refused; others that
    are not listed are ignored. Any `model` is accepted; the response names the one that was used.
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: AudioOutput | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    metadata: Metadata | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for name, harmless in _REFUSED.items():
            if fields.get(name) not in harmless and fields.get(_UNUSED_WITH_NONE.get(name, "")) != "none":
                raise refusal("cannot be met by this model; leave it out", name)
        return fields

    @property
    def speak(self) -> bool:
        return "audio" in (self.modalities or ())

    @property
    def max_reply_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class PromptDetails(BaseModel):
    cached_tokens: int
    audio_tokens: int


class CompletionDetails(BaseModel):
    audio_tokens: int
    reasoning_tokens: int = 0


class ChatUsage(BaseModel):
    """Tokens read and written; an audio token is one code frame of 80 ms."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ReplyAudio(BaseModel):
    id: str
    data: str
    expires_at: int
    transcript: str


class ReplyMessage(BaseModel):
    """The reply: `content` for text, `audio` for speech."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: ReplyAudio | None = None


class Choice(BaseModel):
    index: int = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage

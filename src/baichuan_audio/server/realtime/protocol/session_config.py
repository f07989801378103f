"""The settings of a session: what `session.update` may change, with bounds and defaults, and how clients see them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from ...audio.voices import resolve_voice, voice_refusal
from ...validation import Identifier, JsonValue, Text, between, check_json, refusal
from .base import MergedModel, ProtocolModel

_MAX_OUTPUT_TOKENS = 4096
BETA_NAMES = {  # which old clients still send, in a session and in a response
    "modalities": "output_modalities",
    "voice": "audio.output.voice",
    "input_audio_format": "audio.input.format",
    "output_audio_format": "audio.output.format",
    "input_audio_transcription": "audio.input.transcription",
    "turn_detection": "audio.input.turn_detection",
    "max_response_output_tokens": "max_output_tokens",
}


class AudioPCM(ProtocolModel):
    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class AudioPCMU(ProtocolModel):
    type: Literal["audio/pcmu"]
    rate: Literal[8000] = Field(default=8000, exclude=True)


class AudioPCMA(ProtocolModel):
    type: Literal["audio/pcma"]
    rate: Literal[8000] = Field(default=8000, exclude=True)


RealtimeAudioFormats = Annotated[AudioPCM | AudioPCMU | AudioPCMA, Field(discriminator="type")]
PCM = AudioPCM(type="audio/pcm")


class ServerVad(MergedModel):
    """A turn ends after a fixed silence.

    threshold: speech probability in [0, 1] that counts as speech. prefix_padding_ms: sound kept from before it.
    silence_duration_ms: silence that ends a turn. idle_timeout_ms: after so long without speech the model responds.
    create_response: respond when the turn ends. interrupt_response: speech ends a response that is being played.
    """

    ignored = frozenset({"eagerness"})
    nullable = frozenset({"idle_timeout_ms"})
    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, between(0, 1)] = 0.5
    prefix_padding_ms: Annotated[int, between(0, 5000)] = 300
    silence_duration_ms: Annotated[int, between(0, 10_000)] = 500
    idle_timeout_ms: Annotated[int, between(1000, 60_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(MergedModel):
    """A turn ends after a silence that depends on the eagerness: 1600 (low), 800 (medium, auto) or 400 ms (high).

    No model of meaning is behind it: the names are the protocol's, the durations ours.
    """

    ignored = frozenset({"threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms"})
    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    threshold: ClassVar[float] = 0.5
    prefix_padding_ms: ClassVar[int] = 300
    idle_timeout_ms: ClassVar[None] = None

    @property
    def silence_duration_ms(self) -> int:
        """Silence that ends a turn."""
        return {"low": 1600, "medium": 800, "auto": 800, "high": 400}[self.eagerness]


TurnDetection = ServerVad | SemanticVad


class AudioTranscription(ProtocolModel):
    """The user's speech shall be transcribed; the model that does it is always ours, whatever is named."""

    ignored = frozenset({"delay", "keywords", "languages"})
    model: Annotated[Text, Field(max_length=200)] | None = None
    language: Annotated[Text, Field(max_length=20)] | None = None
    prompt: Text | None = None


class NoiseReduction(ProtocolModel):
    """Shown, without effect."""

    type: Literal["near_field", "far_field"] | None = None
    strength: Annotated[float, between(0, 1)] | None = Field(default=None, exclude=True)


class RealtimeAudioConfigInput(MergedModel):
    nullable = frozenset({"noise_reduction", "transcription", "turn_detection"})
    format: RealtimeAudioFormats = PCM
    noise_reduction: NoiseReduction | None = None
    transcription: AudioTranscription | None = None
    turn_detection: Annotated[TurnDetection, Field(discriminator="type")] | None = ServerVad()


class VoiceID(ProtocolModel):
    id: Identifier


def _voice_name(voice: str | VoiceID, info: ValidationInfo) -> str:
    """A name or `{"id": name}` -> one of the voices in the validation's context; "" for none."""
    name = voice.id if isinstance(voice, VoiceID) else voice
    if not name or info.context is None:
        return name
    resolved = resolve_voice(info.context["voices"], name)
    if resolved is None:
        raise refusal(voice_refusal(info.context["voices"]))
    return resolved


Voice = Annotated[Identifier | VoiceID, AfterValidator(_voice_name)]


class RealtimeAudioConfigOutput(MergedModel):
    format: RealtimeAudioFormats = PCM
    voice: Voice = ""
    speed: Annotated[float, between(0.25, 1.5)] = 1.0

    @model_validator(mode="after")
    def _keep_the_voice(self) -> RealtimeAudioConfigOutput:
        if not self.voice:
            self.model_fields_set.discard("voice")
        return self


class RealtimeAudioConfig(MergedModel):
    input: RealtimeAudioConfigInput = RealtimeAudioConfigInput()
    output: RealtimeAudioConfigOutput = RealtimeAudioConfigOutput()


class Tool(ProtocolModel, extra="allow"):
    """Shown, without effect: the model calls no tools."""

    type: Text

    @model_validator(mode="after")
    def _check_size(self) -> Tool:
        check_json(self.model_dump())
        return self


def _check_modalities(modalities: list[Any]) -> list[Any]:
    if modalities not in (["audio"], ["text"]):
        raise refusal("""must be ["audio"] or ["text"]; audio has its text""")
    return modalities


def _check_tool_choice(choice: Any) -> Any:
    """That a tool may be called changes nothing, that one must be is refused."""
    if choice not in ("auto", "none"):
        raise refusal("must be 'auto' or 'none': this model calls no tools", code="unsupported_value")
    return choice


def _check_session_type(kind: Any) -> Any:
    if kind == "transcription":
        raise refusal(
            "must be 'realtime': transcription sessions are not offered here", code="unsupported_session_type"
        )
    return kind


Modalities = Annotated[list[Any], Field(max_length=2), AfterValidator(_check_modalities)]
ToolChoice = Annotated[Any, AfterValidator(_check_tool_choice)]
TokenLimit = Annotated[
    Annotated[int, between(1, _MAX_OUTPUT_TOKENS), Tag("number")] | Annotated[Literal["inf"], Tag("word")],
    Discriminator(lambda value: "word" if value == "inf" else "number"),
]


class RealtimeSessionCreateRequest(MergedModel):
    """All settings of a session; as an update, those that it names. `tools`, `tool_choice`, `tracing`, `truncation`,
    `include` and `noise_reduction` are checked and shown, without effect."""

    ignored = frozenset({"id", "object", "expires_at", "model", "prompt", "reasoning", "parallel_tool_calls"})
    renamed = BETA_NAMES
    type: Annotated[Literal["realtime"], BeforeValidator(_check_session_type)] = "realtime"
    instructions: Text = ""
    output_modalities: Modalities = Field(default=["audio"])
    max_output_tokens: TokenLimit = "inf"
    audio: RealtimeAudioConfig = RealtimeAudioConfig()
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default=[])
    tool_choice: ToolChoice = "auto"
    tracing: JsonValue = None
    truncation: JsonValue = "auto"
    include: JsonValue = None

    def as_wire(self, session_id: str, model: str, expires_at: int) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`. expires_at: Unix time."""
        shown = {"id": session_id, "object": "realtime.session", "model": model, "expires_at": expires_at}
        return {**shown, **self.model_dump(), "prompt": None}

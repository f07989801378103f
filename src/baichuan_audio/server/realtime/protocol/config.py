"""What a session is set to, how `session.update` changes it, and how the client gets to see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from ...audio.voices import OPENAI_VOICES
from ..input.codec import RATES, AudioFormat
from ..input.turn_detection import Eagerness, SemanticVad, ServerVad, TurnDetection
from .fields import Fields, WireError

_MAX_OUTPUT_TOKENS = 4096
_MAX_TOOLS = 128
_TODAY = {  # names of the beta form, which old clients still send
    "modalities": "output_modalities",
    "voice": "audio.output.voice",
    "input_audio_format": "audio.input.format",
    "output_audio_format": "audio.output.format",
    "input_audio_transcription": "audio.input.transcription",
    "turn_detection": "audio.input.turn_detection",
    "max_response_output_tokens": "max_output_tokens",
}


@dataclass(frozen=True)
class Transcription:
    """The user's words shall be written down; the model that does it is always ours, whatever is named."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class SessionConfig:
    """All settings of a session.

    speak: sound and transcript, else text. max_output_tokens: None for as many as the model allows. `echoed`: settings
    that are taken and shown but change nothing here (tools, noise_reduction, tracing, truncation ...).
    """

    model: str
    voice: str
    instructions: str = ""
    speak: bool = True
    max_output_tokens: int | None = None
    input_format: AudioFormat = "audio/pcm"
    output_format: AudioFormat = "audio/pcm"
    speed: float = 1.0
    turn_detection: TurnDetection | None = field(default_factory=ServerVad)
    transcription: Transcription | None = None
    noise_reduction: Any = None
    tools: Any = ()
    tool_choice: Any = "auto"
    tracing: Any = None
    truncation: Any = "auto"
    include: Any = None

    def updated(self, session: object, voices: Sequence[str]) -> SessionConfig:
        """With the fields of a `session.update`; those that are absent (or null, but for the three that may be
        turned off so) stay. Raises WireError and then nothing has changed."""
        fields = Fields(session, "session")
        if isinstance(session, dict) and session.get("type") == "transcription":
            raise WireError("Transcription sessions are not offered here.", "unsupported_session_type", "session.type")
        fields.choice("type", "realtime")
        refuse_old_names(fields)
        fields.ignore("id", "object", "expires_at", "model", "prompt", "reasoning", "parallel_tool_calls")
        changed = replace(
            self,
            instructions=_or(fields.text("instructions"), self.instructions),
            speak=_or(read_modalities(fields), self.speak),
            max_output_tokens=read_max_tokens(fields, self.max_output_tokens),
            tools=_or(_read_tools(fields), self.tools),
            tool_choice=_or(read_tool_choice(fields), self.tool_choice),
            tracing=_or(fields.json("tracing"), self.tracing),
            truncation=_or(fields.json("truncation"), self.truncation),
            include=_or(fields.json("include"), self.include),
        )
        audio = fields.inner("audio")
        fields.done()
        if audio is not None:
            changed = changed._with_input(audio.inner("input"))._with_output(audio.inner("output"), voices)
            audio.done()
        return changed

    def _with_input(self, fields: Fields | None) -> SessionConfig:
        if fields is None:
            return self
        changed = replace(self, input_format=read_format(fields) or self.input_format)
        if fields.is_null("noise_reduction"):
            changed = replace(changed, noise_reduction=None)
        elif (noise_reduction := fields.inner("noise_reduction")) is not None:
            changed = replace(changed, noise_reduction=_read_noise_reduction(noise_reduction))
        if fields.is_null("transcription"):
            changed = replace(changed, transcription=None)
        elif (transcription := fields.inner("transcription")) is not None:
            changed = replace(changed, transcription=_read_transcription(transcription))
        if fields.is_null("turn_detection"):
            changed = replace(changed, turn_detection=None)
        elif (detection := fields.inner("turn_detection")) is not None:
            changed = replace(changed, turn_detection=_read_turn_detection(detection, self.turn_detection))
        fields.done()
        return changed

    def _with_output(self, fields: Fields | None, voices: Sequence[str]) -> SessionConfig:
        if fields is None:
            return self
        changed = replace(
            self,
            output_format=read_format(fields) or self.output_format,
            voice=read_voice(fields, voices) or self.voice,
            speed=_or(fields.number("speed", 0.25, 1.5), self.speed),
        )
        fields.done()
        return changed

    def as_wire(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`."""
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": self.model,
            "expires_at": expires_at,
            "instructions": self.instructions,
            "output_modalities": ["audio" if self.speak else "text"],
            "max_output_tokens": self.max_output_tokens or "inf",
            "tools": list(self.tools),
            "tool_choice": self.tool_choice,
            "tracing": self.tracing,
            "truncation": self.truncation,
            "prompt": None,
            "include": self.include,
            "audio": {
                "input": {
                    "format": format_as_wire(self.input_format),
                    "noise_reduction": self.noise_reduction,
                    "transcription": asdict(self.transcription) if self.transcription else None,
                    "turn_detection": _detection_as_wire(self.turn_detection),
                },
                "output": {
                    "format": format_as_wire(self.output_format),
                    "voice": self.voice,
                    "speed": self.speed,
                },
            },
        }


def refuse_old_names(fields: Fields) -> None:
    """Raises WireError for a name of the beta form, with the one that it has now."""
    for old, new in _TODAY.items():
        if old in fields:
            path = fields.where(old)
            message = f"Unknown parameter: '{path}'; its name is '{fields.where(new)}' now."
            raise WireError(message, "unknown_parameter", path)


def read_modalities(fields: Fields) -> bool | None:
    """`output_modalities` -> whether to speak."""
    value = fields.list("output_modalities", 2)
    if value is None:
        return None
    if value not in (["audio"], ["text"]):
        place = fields.where("output_modalities")
        raise WireError(f"""'{place}' must be ["audio"] or ["text"]; audio has its text.""", "invalid_value", place)
    return value == ["audio"]


def read_max_tokens(fields: Fields, default: int | None) -> int | None:
    """`max_output_tokens` -> tokens, None for "inf"."""
    if fields.is_null("max_output_tokens") or "max_output_tokens" not in fields:
        return default
    value = fields.json("max_output_tokens")
    if value == "inf":
        return None
    return Fields({"max_output_tokens": value}, fields.path).whole("max_output_tokens", 1, _MAX_OUTPUT_TOKENS)


def read_tool_choice(fields: Fields) -> Any:
    """`tool_choice`: that a tool may be called changes nothing, that one must be is refused. Raises WireError."""
    value = fields.json("tool_choice")
    if value not in (None, "auto", "none"):
        path = fields.where("tool_choice")
        raise WireError(f"'{path}' must be 'auto' or 'none': this model calls no tools.", "unsupported_value", path)
    return value


def read_format(fields: Fields) -> AudioFormat | None:
    """`format` -> its type; the rate that may stand beside it has to be the right one."""
    value = fields.inner("format")
    if value is None:
        return None
    kind = cast("AudioFormat | None", value.choice("type", *RATES))
    if kind is None:
        raise value.missing("type")
    rate = value.whole("rate", 1, 10**6)
    if rate not in (None, RATES[kind]):
        raise WireError(f"The rate of {kind} is {RATES[kind]}.", "invalid_value", value.where("rate"))
    value.done()
    return kind


def read_voice(fields: Fields, voices: Sequence[str]) -> str | None:
    """`voice`, a name or `{"id": name}`. OpenAI's names are taken, too: clients send them unasked; they mean our first
    voice."""
    value = fields.word_or_inner("voice")
    if isinstance(value, Fields):
        name = value.needed_text("id")
        value.done()
    else:
        name = value or ""
    if not name or name in voices:
        return name or None
    if name in OPENAI_VOICES:
        return voices[0]
    place = fields.where("voice")
    raise WireError(f"There is no such voice; there are {', '.join(voices)}.", "invalid_value", place)


def format_as_wire(format: AudioFormat) -> dict[str, Any]:
    """A format with its rate where the protocol has one."""
    return {"type": format, "rate": 24000} if format == "audio/pcm" else {"type": format}


def _read_tools(fields: Fields) -> Any:
    tools = fields.list("tools", _MAX_TOOLS)
    if tools is None:
        return None
    for index, tool in enumerate(tools):
        if Fields(tool, f"{fields.where('tools')}[{index}]").text("type") is None:
            raise Fields(tool, f"{fields.where('tools')}[{index}]").missing("type")
    return Fields({"tools": tools}, fields.path).json("tools")


def _read_noise_reduction(fields: Fields) -> dict[str, Any]:
    kind = fields.choice("type", "near_field", "far_field")
    fields.number("strength", 0, 1)
    fields.done()
    return {"type": kind}


def _read_transcription(fields: Fields) -> Transcription:
    result = Transcription(fields.text("model", 200), fields.text("language", 20), fields.text("prompt"))
    fields.ignore("delay", "keywords", "languages")
    fields.done()
    return result


def _read_turn_detection(fields: Fields, now: TurnDetection | None) -> TurnDetection:
    """A change of the same kind keeps what it does not name; another kind begins with its defaults."""
    kind = fields.choice("type", "server_vad", "semantic_vad")
    if kind is None:
        raise fields.missing("type")
    flags = {name: fields.flag(name) for name in ("create_response", "interrupt_response")}
    if kind == "semantic_vad":
        fields.ignore("threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms")
        eagerness = cast("Eagerness | None", fields.choice("eagerness", "low", "medium", "high", "auto"))
        base: TurnDetection = now if isinstance(now, SemanticVad) else SemanticVad()
        given: dict[str, Any] = {"eagerness": eagerness, **flags}
    else:
        fields.ignore("eagerness")
        base = now if isinstance(now, ServerVad) else ServerVad()
        if fields.is_null("idle_timeout_ms"):
            base = replace(base, idle_timeout_ms=None)
        given = {
            "threshold": fields.number("threshold", 0, 1),
            "prefix_padding_ms": fields.whole("prefix_padding_ms", 0, 5000),
            "silence_duration_ms": fields.whole("silence_duration_ms", 0, 10_000),
            "idle_timeout_ms": fields.whole("idle_timeout_ms", 1000, 60_000),
            **flags,
        }
    fields.done()
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _detection_as_wire(detection: TurnDetection | None) -> dict[str, Any] | None:
    if detection is None:
        return None
    kind = "server_vad" if isinstance(detection, ServerVad) else "semantic_vad"
    return {"type": kind, **asdict(detection)}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value

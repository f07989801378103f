"""Any OpenAI-compatible HTTP server as the system under test."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..suites.items import Item
from .base import Earlier, ItemFailure, Reply, audio_of, item_seed, item_waveform, read_sound, wav_bytes
from .http import HttpClient, first_message


class ServerSystem:
    """Any server with OpenAI's chat completions that takes audio, ours or a peer's.

    base_url ends in /v1. key_variable: the environment variable with the key. transcribe_by: an instruction for servers
    that transcribe only when asked in chat; None uses /audio/transcriptions. A refusal of one item (status 4xx) is that
    item's failure; a server that stays away raises EvaluationError, and the next run goes on from there.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        seed: int = 0,
        voice: str = "default",
        key_variable: str = "OPENAI_API_KEY",
        transcribe_by: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self._model, self._seed, self._voice, self._transcribe_by = model, seed, voice, transcribe_by
        self._http = HttpClient(base_url, key_variable, timeout_s)

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "server",
            "address": self._http.base_url,
            "model": self._model,
            "seed": self._seed,
            "voice": self._voice,
            "transcribe_by": self._transcribe_by or "",
        }

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        content: Any = item.question if typed else [_audio_part(item)]
        if instruction:
            content = [{"type": "text", "text": instruction}, *([] if typed else content)]
        messages = [{"role": "user", "content": content}]
        if earlier is not None:
            first = earlier[0].question if typed else [_audio_part(earlier[0])]
            messages[:0] = [{"role": "user", "content": first}, {"role": "assistant", "content": earlier[1]}]
        message = self._chat(item, messages, spoken)
        if not spoken:
            return Reply(_text_of(message))
        audio = message.get("audio") or {}
        if not isinstance(audio, dict) or not audio.get("data"):
            raise ItemFailure("the server sent no sound.")
        waveform, rate = _decode_wav(str(audio["data"]))
        return Reply(str(audio.get("transcript") or _text_of(message)), waveform, rate)

    def transcribe(self, item: Item) -> str:
        if self._transcribe_by is not None:
            content = [{"type": "text", "text": self._transcribe_by}, _audio_part(item)]
            return _text_of(self._chat(item, [{"role": "user", "content": content}], False))
        name, sound = audio_of(item).name, audio_of(item).read_bytes()
        if item.span is not None:
            name, sound = f"{item_seed(0, item)}.wav", wav_bytes(*item_waveform(item))
        answer = self._http.post("/audio/transcriptions", data={"model": self._model}, files={"file": (name, sound)})
        return str(answer.get("text", ""))

    def speak(self, item: Item) -> Reply:
        body: dict[str, Any] = {"model": self._model, "input": item.question, "voice": self._voice}
        body |= {"response_format": "wav", "seed": item_seed(self._seed, item)}
        waveform, rate = read_sound(self._http.post_bytes("/audio/speech", json=body))
        return Reply(item.question, waveform, rate)

    def _chat(self, item: Item, messages: list[dict[str, Any]], spoken: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "seed": item_seed(self._seed, item),
            "modalities": ["text", "audio"] if spoken else ["text"],
        }
        if spoken:
            body["audio"] = {"voice": self._voice, "format": "wav"}
        return first_message(self._http.post("/chat/completions", json=body))


def _audio_part(item: Item) -> dict[str, Any]:
    """A recording as chat completions take it: WAV and MP3 as they are, anything else as WAV."""
    path = audio_of(item)
    form = path.suffix.lstrip(".").lower()
    whole = form in ("wav", "mp3") and item.span is None
    content = path.read_bytes() if whole else wav_bytes(*item_waveform(item))
    data = base64.b64encode(content).decode("ascii")
    return {"type": "input_audio", "input_audio": {"data": data, "format": "mp3" if whole and form == "mp3" else "wav"}}


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _decode_wav(data: str) -> tuple[np.ndarray, int]:
    try:
        return read_sound(base64.b64decode(data))
    except ValueError as error:
        raise ItemFailure(f"the server's sound is not base64 ({error}).") from error

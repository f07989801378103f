"""Any server with OpenAI's Realtime WebSocket as the system under test.

Every item is a conversation of its own: the audio is committed at once, without turn detection, and a reply requested.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import numpy as np

from ...errors import needed_library
from ..results import EvaluationError
from ..suites.items import Item
from .base import Earlier, ItemFailure, Reply, encode_pcm, item_waveform

REALTIME_RATE = 24_000
_INSTRUCTION = "Transcribe the audio word for word. Write nothing else."


class RealtimeSystem:
    """A Realtime server at `url` (ws:// or wss://, ending in /v1/realtime).

    voice "default": the server's own. key_variable: the environment variable with the key. The protocol takes no seed,
    so replies repeat only where the server samples nothing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        voice: str = "default",
        key_variable: str = "OPENAI_API_KEY",
        timeout_s: float = 600.0,
    ) -> None:
        with needed_library("asking a Realtime server needs websockets: pip install 'baichuan-audio[eval]'."):
            from websockets.sync.client import connect
        self._connect: Any = connect
        self._url, self._model, self._voice, self._timeout_s = url, model, voice, timeout_s
        self._key_variable = key_variable

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "realtime",
            "address": self._url,
            "model": self._model,
            "voice": self._voice,
            "transcribe_by": _INSTRUCTION,
        }

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        content: list[dict[str, Any]] = [{"type": "input_text", "text": instruction}] if instruction else []
        messages = [("user", [*content, _part(item, typed)])]
        if earlier is not None:
            reply = [{"type": "output_text", "text": earlier[1]}]
            messages[:0] = [("user", [_part(earlier[0], typed)]), ("assistant", reply)]
        return self._ask(messages, spoken)

    def transcribe(self, item: Item) -> str:
        return self.answer(item, spoken=False, instruction=_INSTRUCTION).text

    def _ask(self, messages: list[tuple[str, list[dict[str, Any]]]], spoken: bool) -> Reply:
        session: dict[str, Any] = {"type": "realtime", "output_modalities": ["audio" if spoken else "text"]}
        session["audio"] = {"input": {"turn_detection": None}}
        if spoken and self._voice != "default":
            session["audio"]["output"] = {"voice": self._voice}
        headers = {"Authorization": f"Bearer {os.environ.get(self._key_variable) or 'none'}"}
        url = f"{self._url}{'&' if '?' in self._url else '?'}model={self._model}"
        try:
            with self._connect(url, additional_headers=headers, max_size=None) as socket:
                for event in (
                    {"type": "session.update", "session": session},
                    *(
                        {
                            "type": "conversation.item.create",
                            "item": {"type": "message", "role": role, "content": content},
                        }
                        for role, content in messages
                    ),
                    {"type": "response.create"},
                ):
                    socket.send(json.dumps(event))
                return self._reply(socket, spoken)
        except ItemFailure:
            raise
        except Exception as error:  # websockets has a class for every way in which a connection ends
            raise EvaluationError(
                f"{self._url} does not answer ({error or type(error).__name__}); start it and run this again."
            ) from error

    def _reply(self, socket: Any, spoken: bool) -> Reply:
        texts, sounds = list[str](), list[bytes]()
        while True:
            event = json.loads(socket.recv(timeout=self._timeout_s))
            kind = event.get("type")
            if kind == "error":
                raise ItemFailure(str((event.get("error") or {}).get("message") or "the server sent an error."))
            if kind in ("response.output_text.delta", "response.output_audio_transcript.delta"):
                texts.append(event["delta"])
            elif kind == "response.output_audio.delta":
                sounds.append(base64.b64decode(event["delta"]))
            elif kind == "response.done":
                break
        response = event.get("response") or {}
        if response.get("status") == "failed":
            raise ItemFailure(f"the reply failed: {json.dumps(response.get('status_details'))}")
        if not spoken:
            return Reply("".join(texts))
        samples = np.frombuffer(b"".join(sounds), "<i2").astype(np.float32) / 32768
        return Reply("".join(texts), samples, REALTIME_RATE)


def _part(item: Item, typed: bool) -> dict[str, Any]:
    """What the user says, or types."""
    if typed:
        return {"type": "input_text", "text": item.question}
    import soxr

    waveform, rate = item_waveform(item)
    samples = waveform if rate == REALTIME_RATE else soxr.resample(waveform, rate, REALTIME_RATE)
    return {"type": "input_audio", "audio": encode_pcm(samples)}

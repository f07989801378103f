"""The system under test: a model in this process, any OpenAI-compatible server, or replies that were recorded.

All answer the same three questions: a spoken or typed question in text, the same with a spoken reply, and what is said
in a recording. Each item has a seed of its own, so neither order nor company changes a reply.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.store.atomic import file_digest, text_digest
from ..errors import AudioError, BaichuanAudioError, MissingDependencyError
from ..generation.events import TextDelta
from ..generation.reply import ReplySampling
from ..model import BaichuanAudio
from .results import EvaluationError, read_results, weights_digest
from .suites.items import Item

_TRIES = 5
_BUSY = {408, 409, 425, 429}


@dataclass(frozen=True)
class Reply:
    """Text of a reply and, of a spoken one, its sound: waveform [S] float32 at `sample_rate` Hz."""

    text: str
    waveform: np.ndarray | None = None
    sample_rate: int = 0


class ItemFailure(Exception):
    """The system refused or failed on this item; its text goes to the results, where the item counts as wrong."""


class System(Protocol):
    """What an evaluation asks. Every method raises ItemFailure where this item cannot be answered."""

    def provenance(self) -> dict[str, Any]:
        """What decides the replies: names and hashes, the same from run to run."""
        ...

    def answer(self, item: Item, spoken: bool, typed: bool = False) -> Reply:
        """The reply to the item's audio (typed: to its text), with sound where `spoken`."""
        ...

    def transcribe(self, item: Item) -> str:
        """What is said in the item's audio."""
        ...


class Recogniser(Protocol):
    """An independent ASR that reads spoken replies back."""

    def provenance(self) -> dict[str, Any]: ...

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        """Samples [S] at 16 kHz -> what is said, in "en" or "zh"."""
        ...


class WhisperRecogniser:
    """Whisper by faster-whisper; `model` is a size or a folder."""

    def __init__(self, model: str) -> None:
        self._model, self._languages = model, dict[str, Any]()

    def provenance(self) -> dict[str, Any]:
        folder = Path(self._model)
        digest = file_digest(folder / "model.bin") if (folder / "model.bin").is_file() else ""
        return {"kind": "whisper", "model": folder.name, "weights": digest}

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        from .whisper import Whisper

        if language not in self._languages:
            self._languages[language] = Whisper(self._model, language)
        return str(self._languages[language].transcribe(waveform))


class LocalSystem:
    """A loaded model. `folder`: its checkpoint, hashed for the provenance. sampling None: the checkpoint's own."""

    def __init__(
        self,
        model: BaichuanAudio,
        folder: Path,
        *,
        seed: int = 0,
        voice: str | None = None,
        sampling: ReplySampling | None = None,
    ) -> None:
        self._model, self._seed, self._voice = model, seed, voice
        self._sampling = sampling or ReplySampling.from_config(model.config)
        self._weights = weights_digest(folder)

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "local",
            "weights": self._weights,
            "session": getattr(self._model.session_factory, "__name__", type(self._model.session_factory).__name__),
            "seed": self._seed,
            "voice": self._voice or "",
            "sampling": asdict(self._sampling),
        }

    def answer(self, item: Item, spoken: bool, typed: bool = False) -> Reply:
        content: Any = item.question if typed else {"audio": str(_audio_of(item))}
        messages = [{"role": "user", "content": content}]
        texts, sounds = list[str](), list[np.ndarray]()
        try:
            for piece in self._model.chat(messages, spoken, self._voice, self._sampling, item_seed(self._seed, item)):
                if isinstance(piece, TextDelta):
                    texts.append(piece.text)
                else:
                    sounds.append(piece.waveform.numpy())
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error
        if not spoken:
            return Reply("".join(texts))
        waveform = np.concatenate(sounds) if sounds else np.zeros(0, np.float32)
        return Reply("".join(texts), waveform, self._model.sample_rate)

    def transcribe(self, item: Item) -> str:
        try:
            return self._model.transcribe(str(_audio_of(item)))
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error


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

    def answer(self, item: Item, spoken: bool, typed: bool = False) -> Reply:
        content: Any = item.question if typed else [_audio_part(_audio_of(item))]
        message = self._chat(item, content, spoken)
        if not spoken:
            return Reply(_text_of(message))
        audio = message.get("audio") or {}
        if not isinstance(audio, dict) or not audio.get("data"):
            raise ItemFailure("the server sent no sound.")
        waveform, rate = _decode_wav(str(audio["data"]))
        return Reply(str(audio.get("transcript") or _text_of(message)), waveform, rate)

    def transcribe(self, item: Item) -> str:
        path = _audio_of(item)
        if self._transcribe_by is not None:
            content = [{"type": "text", "text": self._transcribe_by}, _audio_part(path)]
            return _text_of(self._chat(item, content, False))
        with path.open("rb") as file:
            answer = self._http.post(
                "/audio/transcriptions", data={"model": self._model}, files={"file": (path.name, file.read())}
            )
        return str(answer.get("text", ""))

    def _chat(self, item: Item, content: Any, spoken: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "seed": item_seed(self._seed, item),
            "modalities": ["text", "audio"] if spoken else ["text"],
        }
        if spoken:
            body["audio"] = {"voice": self._voice, "format": "wav"}
        return first_message(self._http.post("/chat/completions", json=body))


class RecordedSystem:
    """Replies of an earlier result file: judged or scored anew without asking the model again."""

    def __init__(self, path: Path) -> None:
        header, rows = read_results(path)
        self._path, self._system = path, header["system"]
        self._rows = {row["id"]: row for row in rows if row["kind"] == "output"}
        self._digest = file_digest(path)

    def provenance(self) -> dict[str, Any]:
        return {"kind": "recorded", "results": self._digest, "system": self._system}

    def answer(self, item: Item, spoken: bool, typed: bool = False) -> Reply:
        reply = self._reply(item, "t2t" if typed else "s2s" if spoken else "s2t")
        if not spoken:
            return Reply(str(reply["text"]))
        waveform, rate = _read(self._path.parent / reply["audio"])
        return Reply(str(reply["text"]), waveform, rate)

    def transcribe(self, item: Item) -> str:
        return str(self._reply(item, "asr")["text"])

    def _reply(self, item: Item, setting: str) -> Mapping[str, Any]:
        replies = self._rows.get(item.id, {}).get("replies", {})
        if setting not in replies:
            raise EvaluationError(f"{self._path} holds no reply '{setting}' to {item.id}; run the model on it.")
        reply: Mapping[str, Any] = replies[setting]
        if "error" in reply:
            raise ItemFailure(str(reply["error"]))
        return reply


class HttpClient:
    """Requests to an OpenAI-compatible address; waits and tries again while the server is busy or away."""

    def __init__(self, base_url: str, key_variable: str, timeout_s: float, pause_s: float = 1.0) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependencyError("asking a server needs httpx: pip install 'baichuan-audio[eval]'.") from error
        if not base_url.startswith(("http://", "https://")):
            raise EvaluationError(f"'{base_url}' is no address; give one like http://127.0.0.1:8000/v1.")
        self.base_url, self._pause_s, self._transport_error = base_url.rstrip("/"), pause_s, httpx.TransportError
        key = os.environ.get(key_variable) or "none"
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s)

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that comes back. Raises ItemFailure for status 4xx, EvaluationError while nobody answers."""
        trouble = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self._pause_s * 2 ** (attempt - 1))
            try:
                answer = self._client.post(self.base_url + path, **request)
            except self._transport_error as error:
                trouble = str(error) or type(error).__name__
                continue
            if answer.status_code in _BUSY or answer.status_code >= 500:
                trouble = f"status {answer.status_code}"
                continue
            return self._body(answer)
        raise EvaluationError(f"{self.base_url}{path} does not answer ({trouble}); start it and run this again.")

    def _body(self, answer: Any) -> dict[str, Any]:
        if answer.status_code in (401, 403, 404):
            raise EvaluationError(
                f"{answer.url} refuses every request (status {answer.status_code}); check address, model and key."
            )
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code >= 400:
            detail = body.get("error") if isinstance(body, dict) else None
            message = detail.get("message") if isinstance(detail, dict) else None
            raise ItemFailure(f"status {answer.status_code}: {message or answer.text[:200]}")
        if not isinstance(body, dict):
            raise ItemFailure("the server's answer is no JSON object.")
        return body


def first_message(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a chat completion. Raises ItemFailure where there is none."""
    try:
        message = answer["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        message = None
    if not isinstance(message, dict):
        raise ItemFailure("the server's answer holds no message.")
    return message


def item_seed(seed: int, item: Item) -> int:
    """A seed that depends on the run's seed and the item alone, so order and company change nothing."""
    return int(text_digest(str(seed), item.id)[:7], 16)


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Samples [S] float32 -> a 16-bit WAV file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _audio_of(item: Item) -> Path:
    if item.audio is None:
        raise ItemFailure("this item has no audio.")
    return item.audio


def _audio_part(path: Path) -> dict[str, Any]:
    """A recording as chat completions take it: WAV and MP3 as they are, anything else as WAV."""
    form = path.suffix.lstrip(".").lower()
    content = path.read_bytes() if form in ("wav", "mp3") else wav_bytes(*_read(path))
    data = base64.b64encode(content).decode("ascii")
    return {"type": "input_audio", "input_audio": {"data": data, "format": form if form == "mp3" else "wav"}}


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _decode_wav(data: str) -> tuple[np.ndarray, int]:
    try:
        return _read(base64.b64decode(data))
    except ValueError as error:
        raise ItemFailure(f"the server's sound is not base64 ({error}).") from error


def _read(source: Path | bytes) -> tuple[np.ndarray, int]:
    """Waveform [S] float32 of a file or its bytes, and its rate in Hz. Raises ItemFailure where it cannot be read."""
    from ..audio.reading import read_audio

    try:
        waveform, rate = read_audio(source)
    except AudioError as error:
        raise ItemFailure(f"this sound cannot be read ({error}).") from error
    return np.asarray(waveform, np.float32), int(rate)

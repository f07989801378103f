"""The items of a conversation as the client sees them; the engine's dialogue has the same ones in the same order."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from ....audio.voice_activity import SAMPLE_RATE, Speech
from ....engine import AudioInput
from ...errors import bad_request
from ..input.codec import RATES, AudioFormat, decode, encode, seconds
from ..protocol.client_events import ConversationItem, PartType, Role

_MAX_ITEMS = 4096
_MAX_CHARACTERS = 4_000_000
_MAX_AUDIO_S = 300.0  # of the user's audio; of older items only the transcript is kept
_MAX_RETRIEVED_S = 60.0  # of one item

Samples = NDArray[np.float32]
Sound = NDArray[np.int16]  # at 16 kHz
Segments = Sequence[tuple[int, int]]  # of speech: first sample, sample after the last
Status = Literal["completed", "incomplete", "in_progress"]


@dataclass(frozen=True)
class StoredPart:
    """One part of a message.

    text: of an audio part its transcript, None while unknown. sound: int16 [S] at 16 kHz. segments: of speech in
    it, (first sample, sample after the last); None: all of it.
    """

    type: PartType
    text: str | None = None
    sound: Sound | None = None
    segments: Segments | None = None

    @property
    def silent(self) -> bool:
        """Whether it is audio in which nobody speaks."""
        return self.segments is not None and not self.segments

    def speech(self) -> Speech:
        """The audio, and where somebody speaks in it."""
        assert self.sound is not None
        segments = [(0, len(self.sound))] if self.segments is None else self.segments
        return Speech(torch.from_numpy(to_float(self.sound)), SAMPLE_RATE, segments)

    def as_wire(self, sound_format: AudioFormat | None) -> dict[str, Any]:
        """The content part of the protocol. sound_format: of its audio; None leaves the audio out."""
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text or ""}
        wire: dict[str, Any] = {"type": self.type, "transcript": self.text}
        if sound_format is not None and self.sound is not None:
            samples = soxr.resample(to_float(self.sound), SAMPLE_RATE, RATES[sound_format])
            wire["audio"] = base64.b64encode(encode(samples, sound_format)).decode()
        return wire


@dataclass
class StoredItem:
    """One message.

    Of the assistant's: generated_samples is its audio sent to the client, at sample_rate in Hz and `speed` times faster
    than the model generated it; played_samples how much of that stays, None for all of it. Whole samples, because they
    are compared with a client's milliseconds. counted: characters that the conversation counts for it.
    """

    id: str
    role: Role
    parts: list[StoredPart] = field(default_factory=list)
    status: Status = "completed"
    generated_samples: int = 0
    played_samples: int | None = None
    sample_rate: int = SAMPLE_RATE
    speed: float = 1.0
    counted: int = 0

    def as_wire(self, sound_format: AudioFormat | None = None) -> dict[str, Any]:
        """The item of the protocol. sound_format: of its audio; None, or more than 60 s, leaves the audio out."""
        if self.sound_seconds > _MAX_RETRIEVED_S:
            sound_format = None
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part.as_wire(sound_format) for part in self.parts],
        }

    @property
    def text(self) -> str:
        """Its text, of audio the transcript."""
        return "\n".join(part.text for part in self.parts if part.text)

    @property
    def sound_seconds(self) -> float:
        """How much audio is in it."""
        return sum(len(part.sound) for part in self.parts if part.sound is not None) / SAMPLE_RATE

    @property
    def silent(self) -> bool:
        """Whether it is audio in which nobody speaks, and nothing else: the engine does not get it."""
        has_content = (part.text or part.sound is not None for part in self.parts if not part.silent)
        return any(part.silent for part in self.parts) and not any(has_content)

    def for_engine(self) -> list[str | AudioInput]:
        """The user's message as the engine takes it: long pauses in audio shortened, audio without speech left out."""
        content: list[str | AudioInput] = []
        for part in self.parts:
            if part.sound is not None and not part.silent:
                content.append(AudioInput(part.speech().joined(), SAMPLE_RATE, vad=False))
            elif part.text:
                content.append(part.text)
        return content


def has_no_speech(items: Sequence[StoredItem]) -> bool:
    """Whether nobody speaks in the user's last items, so that there is nothing to answer."""
    for number, item in enumerate(reversed(items)):
        if not item.silent:
            return number > 0 and item.role == "assistant"
    return len(items) > 0


def stored_item(item_id: str, item: ConversationItem, format: AudioFormat, longest_s: float) -> StoredItem:
    """A client's message; its audio is in the session's input format.

    Raises AudioError for half a sample, ApiError for audio that is too long.
    """
    audio = [getattr(part, "audio", None) for part in item.content]
    if sum(seconds(len(data), format) for data in audio if data is not None) > longest_s:
        raise bad_request(f"The audio is longer than {longest_s:g} s.", "item.content", "audio_too_long")
    parts = []
    for part, data in zip(item.content, audio, strict=True):
        sound = None
        if data is not None:
            sound = to_int16(soxr.resample(decode(data, format), RATES[format], SAMPLE_RATE))
        parts.append(StoredPart(part.type, part.words, sound))
    return StoredItem(item_id, item.role, parts)


def to_int16(samples: Samples) -> Sound:
    """float32 in [-1, 1] -> half the memory."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def to_float(sound: Sound) -> Samples:
    """And back."""
    return np.multiply(sound, np.float32(1 / 32768), dtype=np.float32)


class ItemList:
    """Items in their order."""

    def __init__(self) -> None:
        self._items: list[StoredItem] = []
        self._characters = 0  # that clients have sent

    def __iter__(self) -> Iterator[StoredItem]:
        return iter(self._items)

    def __contains__(self, item_id: str) -> bool:
        return any(item.id == item_id for item in self._items)

    @property
    def last_id(self) -> str | None:
        """Id of the last item."""
        return self._items[-1].id if self._items else None

    def get(self, item_id: str) -> StoredItem:
        """Raises ApiError when there is none."""
        return self._items[self._index(item_id)]

    def last_spoken(self, item_id: str) -> str:
        """The last item up to that one which is not silent; "root" when there is none."""
        for item in reversed(self._items[: self._index(item_id) + 1]):
            if not item.silent:
                return item.id
        return "root"

    def previous_id(self, item_id: str) -> str | None:
        """Id of the item before that one."""
        index = self._index(item_id)
        return self._items[index - 1].id if index else None

    def insert(self, item: StoredItem, after: str | None = None) -> None:
        """after: None for the end, "root" for the beginning, else an item. Raises ApiError: no such item, id taken."""
        if item.id in self:
            raise bad_request("There is an item with this id already.", "item.id", "item_id_taken")
        characters = self._characters + len(item.text)
        if len(self._items) >= _MAX_ITEMS or characters > _MAX_CHARACTERS:
            raise bad_request("The conversation is full; delete items.", "item", "conversation_full")
        if after is None:
            self._items.append(item)
        else:
            index = 0 if after == "root" else self._index(after, "previous_item_id") + 1
            self._items.insert(index, item)
        item.counted, self._characters = characters - self._characters, characters
        self._drop_old_audio()

    def remove(self, item_id: str) -> None:
        """Raises ApiError when there is none."""
        item = self._items.pop(self._index(item_id))
        self._characters -= item.counted

    def _index(self, item_id: str, param: str = "item_id") -> int:
        for index, item in enumerate(self._items):
            if item.id == item_id:
                return index
        raise bad_request(f"There is no item '{item_id}'.", param, "item_not_found")

    def _drop_old_audio(self) -> None:
        """The newest audio is kept, up to the limit."""
        left = _MAX_AUDIO_S
        for item in reversed(self._items[:-1]):
            for index, part in enumerate(item.parts):
                if part.sound is not None:
                    left -= len(part.sound) / SAMPLE_RATE
                    if left < 0:
                        item.parts[index] = replace(part, sound=None)

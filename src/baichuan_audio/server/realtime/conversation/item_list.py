"""The items of a conversation as the client sees them; the engine's dialogue holds the same ones in the same order."""

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
from ..input.codec import RATES, AudioFormat, decode, encode, seconds
from ..protocol.fields import WireError
from ..protocol.wire import NewItem, PartType, Role

_MAX_ITEMS = 4096
_MAX_CHARACTERS = 4_000_000
_KEPT_SECONDS = 300.0  # sound of the user's that may be had back; of what is older the transcript stays
_LONGEST_SHOWN_S = 60.0  # of one item

Samples = NDArray[np.float32]
Status = Literal["completed", "incomplete", "in_progress"]


@dataclass(frozen=True)
class Part:
    """text: of an audio part its transcript, None while unknown. sound: int16 [S] at 16 kHz. segments: of speech in
    the sound, (first sample, sample after the last); None: all of it."""

    type: PartType
    text: str | None = None
    sound: NDArray[np.int16] | None = None
    segments: Sequence[tuple[int, int]] | None = None

    @property
    def silent(self) -> bool:
        """Whether it is sound in which nobody speaks."""
        return self.segments is not None and not self.segments

    def speech(self) -> Speech:
        """The sound, and where somebody speaks in it."""
        assert self.sound is not None
        segments = [(0, len(self.sound))] if self.segments is None else self.segments
        return Speech(torch.from_numpy(to_float(self.sound)), SAMPLE_RATE, segments)

    def as_wire(self, sound_format: AudioFormat | None) -> dict[str, Any]:
        """The content part; its sound only in a format asked for."""
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text or ""}
        wire: dict[str, Any] = {"type": self.type, "transcript": self.text}
        if sound_format is not None and self.sound is not None:
            samples = soxr.resample(to_float(self.sound), SAMPLE_RATE, RATES[sound_format])
            wire["audio"] = base64.b64encode(encode(samples, sound_format)).decode()
        return wire


@dataclass
class ConversationItem:
    """One message.

    Of the assistant's: made_samples is its sound made for the client, at sample_rate in Hz and `speed` times faster
    than the model said it; heard_samples what of that counts, None for all of it. Whole samples, because what a client
    names in milliseconds is compared with it. counted: characters that the conversation counts for it.
    """

    id: str
    role: Role
    parts: list[Part] = field(default_factory=list)
    status: Status = "completed"
    made_samples: int = 0
    heard_samples: int | None = None
    sample_rate: int = SAMPLE_RATE
    speed: float = 1.0
    counted: int = 0

    def as_wire(self, sound_format: AudioFormat | None = None) -> dict[str, Any]:
        """The item of the protocol; its sound, if it is not too long, only in a format asked for."""
        if self.sound_seconds > _LONGEST_SHOWN_S:
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
        """Its words, of sound the transcript."""
        return "\n".join(part.text for part in self.parts if part.text)

    @property
    def sound_seconds(self) -> float:
        """How much sound is in it."""
        return sum(len(part.sound) for part in self.parts if part.sound is not None) / SAMPLE_RATE

    @property
    def silent(self) -> bool:
        """Whether it is sound in which nobody speaks, and nothing else: the engine does not get it."""
        heard = (part.text or part.sound is not None for part in self.parts if not part.silent)
        return any(part.silent for part in self.parts) and not any(heard)

    def for_engine(self) -> list[str | AudioInput]:
        """The user's message as the engine takes it: sound with long pauses shortened, and none without speech."""
        content: list[str | AudioInput] = []
        for part in self.parts:
            if part.sound is not None and not part.silent:
                content.append(AudioInput(part.speech().joined(), SAMPLE_RATE, vad=False))
            elif part.text:
                content.append(part.text)
        return content


def without_words(items: Sequence[ConversationItem]) -> bool:
    """Whether nobody spoke in what the user said last, so that there is nothing to answer."""
    for number, item in enumerate(reversed(items)):
        if not item.silent:
            return number > 0 and item.role == "assistant"
    return len(items) > 0


def new_item(item_id: str, new: NewItem, format: AudioFormat, longest_seconds: float) -> ConversationItem:
    """A client's message; its sound is in the session's input format.

    Raises AudioError for half a sample, WireError for sound that is too long.
    """
    if sum(seconds(len(part.audio), format) for part in new.parts if part.audio is not None) > longest_seconds:
        raise WireError(f"The audio is longer than {longest_seconds:g} s.", "audio_too_long", "item.content")
    parts = []
    for part in new.parts:
        sound = None
        if part.audio is not None:
            sound = to_int16(soxr.resample(decode(part.audio, format), RATES[format], SAMPLE_RATE))
        parts.append(Part(part.type, part.text, sound))
    return ConversationItem(item_id, new.role, parts)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """float32 in [-1, 1] -> half the memory."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def to_float(sound: NDArray[np.int16]) -> Samples:
    """And back."""
    return np.multiply(sound, np.float32(1 / 32768), dtype=np.float32)


class ItemList:
    """Items in their order."""

    def __init__(self) -> None:
        self._items: list[ConversationItem] = []
        self._characters = 0  # that clients have sent

    def __iter__(self) -> Iterator[ConversationItem]:
        return iter(self._items)

    def __contains__(self, item_id: str) -> bool:
        return any(item.id == item_id for item in self._items)

    @property
    def last_id(self) -> str | None:
        """Id of the last item."""
        return self._items[-1].id if self._items else None

    def get(self, item_id: str) -> ConversationItem:
        """Raises WireError when there is none."""
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

    def insert(self, item: ConversationItem, after: str | None = None) -> None:
        """after: None for the end, "root" for the beginning, else an item. Raises WireError: no such item, id taken."""
        if item.id in self:
            raise WireError("There is an item with this id already.", "item_id_taken", "item.id")
        characters = self._characters + len(item.text)
        if len(self._items) >= _MAX_ITEMS or characters > _MAX_CHARACTERS:
            raise WireError("The conversation is full; delete items.", "conversation_full", "item")
        if after is None:
            self._items.append(item)
        else:
            place = 0 if after == "root" else self._index(after, "previous_item_id") + 1
            self._items.insert(place, item)
        item.counted, self._characters = characters - self._characters, characters
        self._forget_old_sound()

    def remove(self, item_id: str) -> None:
        """Raises WireError when there is none."""
        item = self._items.pop(self._index(item_id))
        self._characters -= item.counted

    def _index(self, item_id: str, param: str = "item_id") -> int:
        for index, item in enumerate(self._items):
            if item.id == item_id:
                return index
        raise WireError(f"There is no item '{item_id}'.", "item_not_found", param)

    def _forget_old_sound(self) -> None:
        """The newest sound is kept, up to the limit."""
        left = _KEPT_SECONDS
        for item in reversed(self._items[:-1]):
            for index, part in enumerate(item.parts):
                if part.sound is not None:
                    left -= len(part.sound) / SAMPLE_RATE
                    if left < 0:
                        item.parts[index] = replace(part, sound=None)

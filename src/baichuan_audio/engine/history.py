"""What has been said in one dialogue, item by item, and the sequence that the model reads of it.

    <B_SYS> system text, then per turn <C_Q> user content and [audiotext_start] <C_A> reply endoftext

Items that follow each other from the user are one turn; what the system says later is added to the system text, each on
a line of its own. An item keeps the ids and code frames of its turn, so that nothing is heard or encoded twice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..audio_tokenizer.model import CROSSFADE_MS
from ..errors import PromptError, PromptTooLongError
from ..generation.context import prompt_room, turns_to_forget
from ..generation.sequence import Token
from ..model import BaichuanAudio

_MOST_ITEMS = 4096
_CHARACTERS = 16
"""Of a text for each position; one with more of them could never be read, and is not encoded to find that out."""
_TOLERANCE = 0.02  # seconds: who stops the clock at the end of a segment has heard it
_WORD = re.compile(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+")  # a Chinese character, or a run of anything but space


@dataclass(eq=False)
class Item:
    """One message. tokens: of a user, the content; of the assistant, from the mark before the reply to endoftext.

    text: what the system says. ready: false while the user's audio is being encoded. forgotten: too old to be read.
    discarded: a reply that ran away, which is never read.
    """

    id: str
    role: Literal["system", "user", "assistant"]
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    ready: bool = True
    forgotten: bool = False
    discarded: bool = False

    def forget(self) -> None:
        """It will not be read again: of a reply only what `History.truncate` needs stays, of the user's nothing."""
        self.forgotten = True
        kept = self.tokens if self.role == "assistant" else []
        self.tokens = [() if isinstance(token, tuple) else token for token in kept]


class History:
    """The items of one dialogue in order, in a slot of `capacity` positions.

    The rule: before a reply the whole dialogue and a quarter of `context` for the reply must fit into `context`. Where
    they do not, the oldest turns (a user's and the answers to it) are forgotten (`turns_to_forget`); the system text
    and the last turn always stay, and may take three quarters of the slot.

    context: positions of a dialogue that the model answers well, by default the model's `context_length`; `capacity`
    where that is smaller.
    """

    def __init__(self, model: BaichuanAudio, capacity: int, context: int | None = None) -> None:
        self.items: list[Item] = []
        self._capacity, self._context = capacity, min(capacity, context or model.context_length)
        self._model, self._special, self._tokenizer = model, model.special, model.text_tokenizer
        self._encoded_system: tuple[str, list[Token]] = ("", [])

    @property
    def most(self) -> int:
        """Positions that a message may take together with all that stands before it."""
        return prompt_room(self._capacity)

    def add(self, item: Item, after: str | None = None) -> None:
        """Put `item` behind the item named ("root": before all; None: last).

        Raises PromptError for an id in use, or when there are too many items that are still read.
        """
        if sum(not other.forgotten and bool(other.tokens or other.text) for other in self.items) >= _MOST_ITEMS:
            raise PromptError(f"the dialogue has {_MOST_ITEMS} items, and no more can be added.")
        if any(other.id == item.id for other in self.items):
            raise PromptError(f"there is already an item '{item.id}'.")
        place = len(self.items) if after is None else 0 if after == "root" else self.items.index(self.find(after)) + 1
        self.items.insert(place, item)

    def find(self, item_id: str) -> Item:
        """The item of that id; raises PromptError when there is none."""
        for item in self.items:
            if item.id == item_id:
                return item
        raise PromptError(f"there is no item '{item_id}'.")

    def remove(self, item_id: str) -> None:
        """Take an item out; raises PromptError when there is none."""
        self.items.remove(self.find(item_id))

    def check_size(self, item: Item) -> None:
        """Raise PromptTooLongError for an item that could never be read together with an answer."""
        if len(item.tokens) > self.most:
            raise PromptTooLongError(
                f"the message is {len(item.tokens)} tokens long, and at most {self.most} can be answered."
            )

    def check_text(self, text: str) -> None:
        """Raise PromptTooLongError for a text too long whatever it says, before time is spent on encoding it."""
        if len(text) > _CHARACTERS * self._capacity:
            raise PromptTooLongError(f"the text is {len(text)} characters long, far more than can be read; shorten it.")

    def check_sound(self, seconds: float) -> None:
        """Raise PromptTooLongError for more sound than can be answered, before it is encoded."""
        frame_rate = self._model.tokenizer.frame_rate
        if seconds * frame_rate > self.most:
            raise PromptTooLongError(
                f"the message has {seconds:.0f} s of sound, and at most {self.most / frame_rate:.0f} s can be answered."
            )

    def prompt(self, system: str, spoken: bool, forget: bool = True) -> list[Token]:
        """The sequence up to where the next reply begins, without the oldest turns where there is no room for them.

        forget: whether these turns are not read again later either. Raises PromptTooLongError, forgetting nothing, when
        system text and last turn alone leave no room.
        """
        head = self._system_tokens(system)
        mark: list[Token] = [self._special.audiotext_start] if spoken else []
        turns = self._turns()
        sizes = [sum(len(item.tokens) for item in turn) + (turn[0].role == "user") for turn in turns]
        rest = len(head) + len(mark) + 1
        left_out = turns_to_forget(rest, sizes, self._context)
        length = rest + sum(sizes[left_out:])
        if length > self.most:
            raise PromptTooLongError(
                f"system text and message are {length} tokens long, and at most {self.most} can be answered."
            )
        for item in itertools.chain.from_iterable(turns[:left_out] if forget else ()):
            item.forget()
        return [*head, *self._read(turns[left_out:]), *mark, self._special.assistant]

    def truncate(self, item_id: str, seconds: float) -> str:
        """Cut a spoken reply to what was heard of it -> the text that stays.

        Audio segments lie end to end, with 10 ms of cross-fade between two unless speech is continuous. Segments heard
        to their end stay; in the one being heard the frames heard stay, and of its text the same share, down to a whole
        word (or Chinese character). A reply of which no word was heard is not read at all. Raises PromptError for any
        item but a spoken reply.
        """
        item = self.find(item_id)
        if item.discarded:
            return ""
        if item.role != "assistant" or not any(isinstance(token, tuple) for token in item.tokens):
            raise PromptError(f"item '{item_id}' is no spoken reply; only such can be cut by time.")
        item.tokens, text = self.heard(item.tokens, seconds)
        return text

    def heard(self, reply: Sequence[Token], seconds: float) -> tuple[list[Token], str]:
        """A spoken reply from its mark to endoftext -> what `truncate` leaves of it, and its text."""
        special = self._special
        kept: list[Token] = [special.audiotext_start, special.assistant]
        said, start, before, spoken = "", 0.0, 0, False
        for ids, frames in _segments(reply, special.audiogen_start, special.audiogen_end):
            text = self.text(ids)
            before += len(frames)
            continuous = self._model.continuous_speech
            length = self._seconds(before) - start if continuous else self._seconds(len(frames))
            share = min(1.0, max(0.0, seconds + _TOLERANCE - start) / length) if frames else 0.0
            if share < 1:
                text = _first_words(text, int(share * len(text)))
                ids, frames = list(self._tokenizer.encode(text)), frames[: max(1, round(share * len(frames)))]
            if not text:
                break
            said, spoken = said + text, True
            kept += [*ids, special.audiogen_start, *frames, special.audiogen_end]
            if share < 1:
                break
            start += length - (0.0 if continuous else CROSSFADE_MS / 1000)
        return ([*kept, special.end_of_text] if spoken else []), said

    def _seconds(self, frames: int) -> float:
        """Sound of a stretch of so many code frames: each gives four mel frames, the last one less."""
        if not frames:
            return 0.0
        conv, flow = self._model.tokenizer.decoder.dconv1.conv, self._model.flow.config
        mel_frames = (frames - 1) * conv.stride[0] + min(conv.stride[0], conv.kernel_size[0])
        return mel_frames * flow.hop_length / flow.sampling_rate

    def written(self, text: str) -> list[Token]:
        """A reply that is only written, from its mark to endoftext; nothing for an empty one."""
        ids: list[Token] = [*self._tokenizer.encode(text)]
        return [self._special.assistant, *ids, self._special.end_of_text] if ids else []

    def text(self, tokens: Sequence[Token]) -> str:
        """The words of a turn."""
        return self._tokenizer.decode([token for token in tokens if isinstance(token, int)])

    def _turns(self) -> list[list[Item]]:
        """Items that are read, but the system's, in turns: each begins with the user's first item after a reply."""
        turns: list[list[Item]] = []
        for item in self.items:
            if item.role == "system" or not item.tokens or item.forgotten:
                continue
            if not turns or (item.role == "user" and turns[-1][-1].role != "user"):
                turns.append([])
            turns[-1].append(item)
        return turns

    def _read(self, turns: Iterable[Sequence[Item]]) -> Iterator[Token]:
        for turn in turns:
            if turn[0].role == "user":
                yield self._special.user
            for item in turn:
                yield from item.tokens

    def _system_tokens(self, system: str) -> list[Token]:
        """The mark and the system text, with all that the system has said; raises PromptError for a text too long."""
        text = "\n".join([*filter(None, [system]), *(item.text for item in self.items if item.role == "system")])
        if text != self._encoded_system[0]:
            self.check_text(text)
            self._encoded_system = (text, [*self._tokenizer.encode(text)])
        return [self._special.system, *self._encoded_system[1]]


def _segments(reply: Sequence[Token], start: int, end: int) -> list[tuple[list[Token], list[Token]]]:
    """A spoken reply, marks and endoftext at its ends -> text ids and frames of each segment."""
    segments: list[tuple[list[Token], list[Token]]] = []
    ids: list[Token] = []
    frames: list[Token] = []
    for token in reply[2:-1]:
        if isinstance(token, tuple):
            frames.append(token)
        elif token == end:
            segments.append((ids, frames))
            ids, frames = [], []
        elif token != start:
            ids.append(token)
    return [*segments, (ids, frames)] if ids or frames else segments


def _first_words(text: str, characters: int) -> str:
    """The words of `text` that end within its first `characters`."""
    ends = [match.end() for match in _WORD.finditer(text) if match.end() <= characters]
    return text[: ends[-1]] if ends else ""

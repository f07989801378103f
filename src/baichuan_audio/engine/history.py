"""The items of one dialogue, and the token sequence that the model reads of it.

    <B_SYS> system text, then per turn <C_Q> user content and [audiotext_start] <C_A> reply endoftext

Consecutive items of the user are one turn; later system items are added to the system text, one line each. An item
keeps the ids and code frames of its turn, so that nothing is encoded twice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..audio_tokenizer.model import CROSSFADE_MS
from ..errors import PromptError, PromptTooLongError
from ..generation.context import prompt_budget, turns_to_drop
from ..generation.sequence import Token
from ..model import BaichuanAudio

_MAX_ITEMS = 4096
_MAX_CHARACTERS_PER_POSITION = 16
"""A text with more characters than this for each position of a slot is too long, and is rejected before encoding."""
_TOLERANCE = 0.02  # seconds: a segment stopped this close to its end counts as played
_WORD = re.compile(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+")  # a Chinese character, or a run of anything but space


@dataclass(eq=False)
class HistoryItem:
    """One message. tokens: a user's content; for the assistant, from the first control token to endoftext.

    text: of a system item. ready: false while the user's audio is being encoded. dropped: too old to be read.
    discarded: a runaway reply, which is never read.
    """

    id: str
    role: Literal["system", "user", "assistant"]
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    ready: bool = True
    dropped: bool = False
    discarded: bool = False

    def drop(self) -> None:
        """Free what the model will not read again; of a reply keep what `History.truncate` needs."""
        self.dropped = True
        kept = self.tokens if self.role == "assistant" else []
        self.tokens = [() if isinstance(token, tuple) else token for token in kept]


class History:
    """The items of one dialogue in order, in a slot of `capacity` positions.

    Before a reply, the whole dialogue and a quarter of `context` for the reply must fit into `context`. Otherwise the
    oldest turns (a user's and the replies to it) are dropped (`turns_to_drop`); the system text and the last turn
    always stay, and may take three quarters of the slot.

    context: positions of a dialogue that the model answers well, by default the model's `context_length`; `capacity`
    where that is smaller.
    """

    def __init__(self, model: BaichuanAudio, capacity: int, context: int | None = None) -> None:
        self.items: list[HistoryItem] = []
        self._capacity, self._context = capacity, min(capacity, context or model.context_length)
        self._model, self._special, self._tokenizer = model, model.special, model.text_tokenizer
        self._encoded_system: tuple[str, list[Token]] = ("", [])

    @property
    def budget(self) -> int:
        """Positions that a message may take together with all before it."""
        return prompt_budget(self._capacity)

    def add(self, item: HistoryItem, after: str | None = None) -> None:
        """Insert `item` after the item with id `after` ("root": before all; None: last).

        Raises PromptError for an id in use, or when there are too many items that are not dropped.
        """
        if sum(not other.dropped and bool(other.tokens or other.text) for other in self.items) >= _MAX_ITEMS:
            raise PromptError(f"the dialogue has {_MAX_ITEMS} items, and no more can be added.")
        if any(other.id == item.id for other in self.items):
            raise PromptError(f"there is already an item '{item.id}'.")
        index = len(self.items) if after is None else 0 if after == "root" else self.items.index(self.find(after)) + 1
        self.items.insert(index, item)

    def find(self, item_id: str) -> HistoryItem:
        """The item with this id; raises PromptError when there is none."""
        for item in self.items:
            if item.id == item_id:
                return item
        raise PromptError(f"there is no item '{item_id}'.")

    def remove(self, item_id: str) -> None:
        """Remove an item; raises PromptError when there is none."""
        self.items.remove(self.find(item_id))

    def check_size(self, item: HistoryItem) -> None:
        """Raise PromptTooLongError for an item that leaves no room for a reply."""
        if len(item.tokens) > self.budget:
            raise PromptTooLongError(
                f"the message is {len(item.tokens)} tokens long, and at most {self.budget} can be answered."
            )

    def check_text(self, text: str) -> None:
        """Raise PromptTooLongError for a text that is certainly too long, before encoding it."""
        if len(text) > _MAX_CHARACTERS_PER_POSITION * self._capacity:
            raise PromptTooLongError(f"the text is {len(text)} characters long, far more than can be read; shorten it.")

    def check_audio(self, seconds: float) -> None:
        """Raise PromptTooLongError for more audio than can be answered, before it is encoded."""
        frame_rate = self._model.tokenizer.frame_rate
        limit = self.budget / frame_rate
        if seconds > limit:
            raise PromptTooLongError(
                f"the message has {seconds:.0f} s of audio, and at most {limit:.0f} s can be answered."
            )

    def prompt(self, system: str, spoken: bool, drop: bool = True) -> list[Token]:
        """The tokens before the next reply, without the oldest turns where they do not fit.

        drop: whether these turns are dropped for later replies too. Raises PromptTooLongError, dropping nothing, when
        system text and last turn alone do not fit.
        """
        head = self._system_tokens(system)
        mark: list[Token] = [self._special.audiotext_start] if spoken else []
        turns = self._turns()
        sizes = [sum(len(item.tokens) for item in turn) + (turn[0].role == "user") for turn in turns]
        rest = len(head) + len(mark) + 1
        left_out = turns_to_drop(rest, sizes, self._context)
        length = rest + sum(sizes[left_out:])
        if length > self.budget:
            raise PromptTooLongError(
                f"system text and message are {length} tokens long, and at most {self.budget} can be answered."
            )
        for item in itertools.chain.from_iterable(turns[:left_out] if drop else ()):
            item.drop()
        return [*head, *self._read(turns[left_out:]), *mark, self._special.assistant]

    def truncate(self, item_id: str, seconds: float) -> str:
        """Truncate a spoken reply to the part that was played -> the remaining text.

        Audio segments follow each other with 10 ms of cross-fade unless speech is continuous. Segments played to their
        end stay; of the current one the played frames stay, and the same share of its text, down to a whole word (or
        Chinese character). A reply of which no word was played is not read at all. Raises PromptError for an item that
        is no spoken reply.
        """
        item = self.find(item_id)
        if item.discarded:
            return ""
        if item.role != "assistant" or not any(isinstance(token, tuple) for token in item.tokens):
            raise PromptError(f"item '{item_id}' is no spoken reply; only a spoken reply can be truncated by time.")
        item.tokens, text = self.played_part(item.tokens, seconds)
        return text

    def played_part(self, reply: Sequence[Token], seconds: float) -> tuple[list[Token], str]:
        """A spoken reply from its first control token to endoftext -> the part that `truncate` keeps, and its text."""
        special = self._special
        kept: list[Token] = [special.audiotext_start, special.assistant]
        kept_text, start, before, spoken = "", 0.0, 0, False
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
            kept_text, spoken = kept_text + text, True
            kept += [*ids, special.audiogen_start, *frames, special.audiogen_end]
            if share < 1:
                break
            start += length - (0.0 if continuous else CROSSFADE_MS / 1000)
        return ([*kept, special.end_of_text] if spoken else []), kept_text

    def _seconds(self, frames: int) -> float:
        """Duration of consecutive code frames: four mel frames each, fewer for the last one."""
        if not frames:
            return 0.0
        conv, flow = self._model.tokenizer.decoder.dconv1.conv, self._model.flow.config
        mel_frames = (frames - 1) * conv.stride[0] + min(conv.stride[0], conv.kernel_size[0])
        return mel_frames * flow.hop_length / flow.sampling_rate

    def text_reply_tokens(self, text: str) -> list[Token]:
        """A text reply from its first control token to endoftext; nothing for an empty one."""
        ids: list[Token] = [*self._tokenizer.encode(text)]
        return [self._special.assistant, *ids, self._special.end_of_text] if ids else []

    def text(self, tokens: Sequence[Token]) -> str:
        """The text of a turn."""
        return self._tokenizer.decode([token for token in tokens if isinstance(token, int)])

    def _turns(self) -> list[list[HistoryItem]]:
        """Items that are read, but system items, in turns: each begins with the user's first item after a reply."""
        turns: list[list[HistoryItem]] = []
        for item in self.items:
            if item.role == "system" or not item.tokens or item.dropped:
                continue
            if not turns or (item.role == "user" and turns[-1][-1].role != "user"):
                turns.append([])
            turns[-1].append(item)
        return turns

    def _read(self, turns: Iterable[Sequence[HistoryItem]]) -> Iterator[Token]:
        for turn in turns:
            if turn[0].role == "user":
                yield self._special.user
            for item in turn:
                yield from item.tokens

    def _system_tokens(self, system: str) -> list[Token]:
        """Control token and system text, with all system items; raises PromptTooLongError."""
        text = "\n".join([*filter(None, [system]), *(item.text for item in self.items if item.role == "system")])
        if text != self._encoded_system[0]:
            self.check_text(text)
            self._encoded_system = (text, [*self._tokenizer.encode(text)])
        return [self._special.system, *self._encoded_system[1]]


def _segments(reply: Sequence[Token], start: int, end: int) -> list[tuple[list[Token], list[Token]]]:
    """A spoken reply with its control tokens -> text ids and frames of each segment."""
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

"""Detects runaway replies: text or audio that repeats itself, or audio far longer than its text needs.

The amount of speech in a text is counted in letters (`speech_letters`): ordinary speech has about 14 a second, about
one in a code frame of 80 ms. The limits are several times what slow speech of any speaker needs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence

REPETITION = "repetition"
"""Reason of a reply whose text or code frames repeat themselves."""
AUDIO_OVERRUN = "audio_overrun"
"""Reason of a reply with far more audio than its text needs."""
RUNAWAYS = (REPETITION, AUDIO_OVERRUN)

_CHINESE_FROM = "\u2e80"
_LETTERS_OF_A_CHARACTER = 3.0  # a Chinese character is a syllable
_LETTERS_OF_A_NAME = 3.0  # "B" in "BBC" is pronounced as a word
_LETTERS_OF_A_DIGIT = 5.0
_LETTERS_OF_A_PAUSE = 4.0

_LONGEST_UNIT = 16  # ids or frames; a longer repeated passage is not looked for
_REPEATS = 6
_REPEATED_IDS = 24
_MAX_DISTINCT_IDS, _DISTINCT_WINDOW = 3, 40  # at most so many different ids among the last 40
_REPEATED_FRAMES = 40  # 3.2 s

_SEGMENT_SLACK, _SEGMENT_RATE = 38, 3.0  # frames, and frames a letter
_REPLY_SLACK, _REPLY_RATE = 75, 2.5
_OVERLONG_SEGMENTS = 2  # consecutive segments that met their limit without an end of audio

_SHORT_LETTERS = 12.0  # a longer text has no minimum
_MIN_FRAMES, _MIN_FRAMES_PER_LETTER = 4.0, 0.5


def speech_letters(text: str) -> float:
    """The amount of speech in `text`, in letters of ordinary speech."""
    letters = 0.0
    for index, character in enumerate(text):
        if character >= _CHINESE_FROM and character.isalnum():
            letters += _LETTERS_OF_A_CHARACTER
        elif character.isdigit():
            letters += _LETTERS_OF_A_DIGIT
        elif character.isalpha():
            neighbours = text[max(0, index - 1) : index + 2]
            named = character.isupper() and not any(neighbour.islower() for neighbour in neighbours)
            letters += _LETTERS_OF_A_NAME if named else 1.0
        elif unicodedata.category(character).startswith("S"):
            letters += _LETTERS_OF_A_DIGIT
        elif unicodedata.category(character).startswith("P"):
            letters += _LETTERS_OF_A_PAUSE
    return letters


def min_speech_frames(text: str) -> int:
    """The least number of code frames for a reply or clause of a word or two; 0 for a longer text, which a model does
    not end too early."""
    letters = sum(speech_letters(character) for character in text if character.isalnum())
    return int(_MIN_FRAMES + _MIN_FRAMES_PER_LETTER * letters) if 0 < letters <= _SHORT_LETTERS else 0


def repeats_itself(tokens: Sequence[Hashable], min_length: int = _REPEATED_IDS) -> bool:
    """Whether the tokens end in a unit repeated at least six times, over at least `min_length` tokens."""
    for unit in range(1, _LONGEST_UNIT + 1):
        span = max(min_length, _REPEATS * unit)
        if len(tokens) >= span and all(tokens[-i] == tokens[-i - unit] for i in range(1, span - unit + 1)):
            return True
    return False


def text_repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the text ends in the same few ids over and over, in the same order or not."""
    last = ids[-_DISTINCT_WINDOW:]
    return (len(last) == _DISTINCT_WINDOW and len(set(last)) <= _MAX_DISTINCT_IDS) or repeats_itself(ids)


class RunawayGuard:
    """Watches one reply, or one text that is read aloud. reason: why it must end, None while it need not.

    Text and audio alternate: `add_id` gets each text id, `begin_audio` the text before an audio segment, `add_frame`
    each of its frames, and `end_audio` its limit. All but `begin_audio` return whether the reply must end.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._ids: list[int] = []
        self._frames: list[tuple[int, ...]] = []
        self._letters = self._last_letters = 0.0
        self._count = self._count_limit = self._overlong = 0

    def add_id(self, id: int) -> bool:
        self._ids.append(id)
        if text_repeats_itself(self._ids):
            self.reason = REPETITION
        return self.reason is not None

    def begin_audio(self, text: str) -> None:
        """text: written since the last audio segment; a segment may also contain speech of the text before that."""
        letters = speech_letters(text)
        self._letters += letters
        segment = _SEGMENT_SLACK + _SEGMENT_RATE * (letters + self._last_letters)
        whole = _REPLY_SLACK + _REPLY_RATE * self._letters - len(self._frames)
        self._last_letters, self._count = letters, 0
        self._count_limit = int(min(segment, whole))

    def add_frame(self, frame: tuple[int, ...]) -> bool:
        self._frames.append(frame)
        self._count += 1
        if repeats_itself(self._frames[-_LONGEST_UNIT * _REPEATS :], _REPEATED_FRAMES):
            self.reason = REPETITION
        elif self._count > self._count_limit:
            self.reason = AUDIO_OVERRUN
        return self.reason is not None

    def end_audio(self, max_frames: int) -> bool:
        """max_frames: the limit of the segment; one that reached it did not end by itself."""
        self._overlong = self._overlong + 1 if self._count >= max_frames else 0
        if self._overlong == _OVERLONG_SEGMENTS:
            self.reason = AUDIO_OVERRUN
        return self.reason is not None

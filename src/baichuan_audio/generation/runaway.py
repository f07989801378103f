"""Telling a reply that has run away from a long one: text or sound that repeats itself, sound far beyond its text.

The amount of speech in a text is counted in letters (`speech_letters`): ordinary speech says about 14 a second, which
is one in a code frame of 80 ms. The limits are several times what slow speech needs, whoever speaks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence

REPETITION = "repetition"
"""Reason of a reply whose text or code frames repeat themselves."""
AUDIO_OVERRUN = "audio_overrun"
"""Reason of a reply with far more sound than its text needs."""
RUNAWAYS = (REPETITION, AUDIO_OVERRUN)

_CHINESE_FROM = "\u2e80"
_LETTERS_OF_A_CHARACTER = 3.0  # a Chinese character is a syllable
_LETTERS_OF_A_NAME = 3.0  # "B" in "BBC" is said as a word
_LETTERS_OF_A_DIGIT = 5.0
_LETTERS_OF_A_PAUSE = 4.0

_LONGEST_UNIT = 16  # ids or frames; a longer repeated passage is not looked for
_REPEATS = 6
_REPEATED_IDS = 24
_FEW_IDS, _AMONG_IDS = 3, 40  # so few different ids among so many
_REPEATED_FRAMES = 40  # 3.2 s

_SEGMENT_SLACK, _SEGMENT_RATE = 38, 3.0  # frames, and frames a letter
_REPLY_SLACK, _REPLY_RATE = 75, 2.5
_OVERLONG_SEGMENTS = 2  # that met their limit without an end of audio, one after the other

_SHORT_LETTERS = 12.0  # in more of them a model does not lose its way at once
_LEAST_FRAMES, _LEAST_RATE = 4.0, 0.5


def speech_letters(text: str) -> float:
    """How much there is to say in `text`, in letters of ordinary speech."""
    letters, row_positions = 0.0, range(len(text))
    for place in row_positions:
        character = text[place]
        if character >= _CHINESE_FROM and character.isalnum():
            letters += _LETTERS_OF_A_CHARACTER
        elif character.isdigit():
            letters += _LETTERS_OF_A_DIGIT
        elif character.isalpha():
            beside = text[max(0, place - 1) : place + 2]
            named = character.isupper() and not any(each.islower() for each in beside)
            letters += _LETTERS_OF_A_NAME if named else 1.0
        elif unicodedata.category(character).startswith("S"):
            letters += _LETTERS_OF_A_DIGIT
        elif unicodedata.category(character).startswith("P"):
            letters += _LETTERS_OF_A_PAUSE
    return letters


def least_frames(text: str) -> int:
    """Code frames that a whole reply or clause of so little text takes at least; 0 where it is longer than a word or
    two, which a model does not end before it has begun."""
    letters = sum(speech_letters(character) for character in text if character.isalnum())
    return int(_LEAST_FRAMES + _LEAST_RATE * letters) if 0 < letters <= _SHORT_LETTERS else 0


def repeats_itself(tokens: Sequence[Hashable], at_least: int = _REPEATED_IDS) -> bool:
    """Whether the tokens end in a unit that comes at least six times in a row, over at least so many tokens."""
    for unit in range(1, _LONGEST_UNIT + 1):
        span = max(at_least, _REPEATS * unit)
        if len(tokens) >= span and all(tokens[-i] == tokens[-i - unit] for i in range(1, span - unit + 1)):
            return True
    return False


def text_repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the text ends in the same few ids over and over, in the same order or not."""
    last = ids[-_AMONG_IDS:]
    return (len(last) == _AMONG_IDS and len(set(last)) <= _FEW_IDS) or repeats_itself(ids)


class RunawayGuard:
    """Watches one reply, or one text that is read aloud. reason: why it must end, None while it need not.

    Text and speech take turns: `write` is told each text id, `begin_audio` the text before an audio segment, `speak`
    each of its frames, and `end_audio` how it ended. Each returns nothing or whether the reply must end.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._ids: list[int] = []
        self._frames: list[tuple[int, ...]] = []
        self._letters = self._last_letters = 0.0
        self._count = self._count_limit = self._overlong = 0

    def write(self, id: int) -> bool:
        self._ids.append(id)
        if text_repeats_itself(self._ids):
            self.reason = REPETITION
        return self.reason is not None

    def begin_audio(self, text: str) -> None:
        """text: written since the last audio segment; a segment may also say the text before that."""
        letters = speech_letters(text)
        self._letters += letters
        segment = _SEGMENT_SLACK + _SEGMENT_RATE * (letters + self._last_letters)
        whole = _REPLY_SLACK + _REPLY_RATE * self._letters - len(self._frames)
        self._last_letters, self._count = letters, 0
        self._count_limit = int(min(segment, whole))

    def speak(self, frame: tuple[int, ...]) -> bool:
        self._frames.append(frame)
        self._count += 1
        if repeats_itself(self._frames[-_LONGEST_UNIT * _REPEATS :], _REPEATED_FRAMES):
            self.reason = REPETITION
        elif self._count > self._count_limit:
            self.reason = AUDIO_OVERRUN
        return self.reason is not None

    def end_audio(self, max_frames: int) -> bool:
        """max_frames: what the segment was allowed; one that took them all did not end by itself."""
        self._overlong = self._overlong + 1 if self._count >= max_frames else 0
        if self._overlong == _OVERLONG_SEGMENTS:
            self.reason = AUDIO_OVERRUN
        return self.reason is not None

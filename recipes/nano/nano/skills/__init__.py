"""The closed world: every skill draws a dialogue of one to three turns for a language and a split."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import arithmetic, calendar, counting, hear, lookup, repeat, smalltalk, spelling, units
from .base import NoContentError, Turn, split_of

SKILLS: dict[str, Callable[[random.Random, str, str], list[Turn]]] = {
    arithmetic.NAME: arithmetic.dialogue,
    counting.NAME: counting.dialogue,
    calendar.NAME: calendar.dialogue,
    units.NAME: units.dialogue,
    spelling.NAME: spelling.dialogue,
    **lookup.dialogues(),
    repeat.NAME: repeat.dialogue,
    smalltalk.NAME: smalltalk.dialogue,
    hear.NAME: hear.dialogue,
}
# Arithmetic has the most content to learn; a bare word the least.
WEIGHTS = dict.fromkeys(SKILLS, 1.0) | {arithmetic.NAME: 3.0, repeat.NAME: 1.5, calendar.NAME: 1.2, hear.NAME: 0.4}

__all__ = ["SKILLS", "WEIGHTS", "NoContentError", "Turn", "split_of"]

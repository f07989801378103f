"""How much of a dialogue the model reads: whole turns; the oldest are dropped first.

`max_position_embeddings` is the range of the position encoding; `context_length` in config.json, where a checkpoint has
it, the range in which the model was measured to answer well. A dialogue is kept within the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError

MIN_CONTEXT = 64


def max_positions(config: Mapping[str, Any]) -> int:
    """Positions that the backbone can encode: `max_position_embeddings`, or no limit where it is missing."""
    return int(config.get("max_position_embeddings") or 1 << 30)


def context_length(config: Mapping[str, Any]) -> int:
    """Positions of a dialogue that the model answers well: `context_length`, by default `max_position_embeddings`.

    Raises ConfigError for a value that is no whole number from 64 to `max_position_embeddings`.
    """
    limit, value = max_positions(config), config.get("context_length")
    if value is None:
        return limit
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_CONTEXT <= value <= limit:
        raise ConfigError(f"config.json: context_length must lie between {MIN_CONTEXT} and {limit}, not {value!r}.")
    return value


def prompt_budget(context: int) -> int:
    """Positions of a context that a prompt may fill; the last quarter is for the reply."""
    return context - context // 4


def turns_to_drop(rest: int, turns: Sequence[int], context: int) -> int:
    """How many of the oldest turns to drop before a reply; the last turn always stays.

    turns: positions of each turn, oldest first; rest: positions of all else, the system text and the control tokens of
    the reply. None are dropped while all of it leaves a quarter of `context` for the reply; otherwise enough that the
    rest fits half of `context`, so that it need not be read again at every turn.
    """
    length, count = rest + sum(turns), 0
    if length > prompt_budget(context):
        while count < len(turns) - 1 and length > context // 2:
            length -= turns[count]
            count += 1
    return count

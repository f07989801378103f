"""Sampling of the next id or code from its logits."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

MAX_SORTED = 64
"""With a larger top_k, tensors are faster than Python."""
_BLOCK = 64


@dataclass(frozen=True)
class Sampling:
    """How one id or code is sampled.

    temperature: 0 for greedy decoding. top_k: sample among this many most likely entries, 0 for all. top_p: sample
    among the most likely entries that together reach this probability. repetition_penalty: positive logits of entries
    seen before are divided by it and negative ones multiplied, before the temperature (arXiv 1909.05858). stop: ids
    after which a text ends (they are part of it); audio segments end by their end mark.
    Raises ConfigError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < float("inf")):
            raise ConfigError(f"temperature must be at least 0, not {self.temperature}.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be at least 0 (0 = no limit), not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], not {self.top_p}.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(f"repetition_penalty must be above 0, not {self.repetition_penalty}.")


def sorts_few(samplings: Sequence[Sampling]) -> bool:
    """Whether each is greedy or has a small top_k."""
    return all(how.temperature == 0 or 0 < how.top_k <= MAX_SORTED for how in samplings)


def draw(logits: Tensor, sampling: Sampling, random: Random, seen: Tensor | None = None) -> int:
    """logits [V], seen [V] bool (what the penalty applies to) -> the sampled index."""
    return draw_rows(logits[None], [sampling], [random], None if seen is None else [seen])[0]


def draw_rows(
    logits: Tensor, samplings: Sequence[Sampling], randoms: Sequence[Random], seen: Sequence[Tensor] | None = None
) -> list[int]:
    """logits [B, V], seen B times [V] bool -> the sampled index of each row, the same as `draw` gives for the row."""
    logits = logits.detach().float()
    if logits.device.type == "cpu":
        rows = logits.numpy()
        masks = [None] * len(rows) if seen is None else [mask.numpy() for mask in seen]
        return [_draw_row(*row) for row in zip(rows, samplings, randoms, masks, strict=True)]
    return draw_rows_on_device(logits, samplings, randoms, seen)


def _draw_row(row: np.ndarray, sampling: Sampling, random: Random, seen: np.ndarray | None) -> int:
    """row [V] float32. A numpy call takes a quarter of the time of a torch call, and a frame needs eight."""
    if seen is not None and sampling.repetition_penalty != 1.0:
        penalty, few = np.float32(sampling.repetition_penalty), np.flatnonzero(seen)
        row, before = row.copy(), row[few]
        row[few] = np.where(before > 0, before / penalty, before * penalty)
    if sampling.temperature == 0:
        return int(row.argmax())
    limit = min(sampling.top_k or len(row), len(row))
    if limit > MAX_SORTED:
        return _draw_many(torch.from_numpy(row), limit, sampling, random.random())
    top = _largest(row, limit)
    return int(top[_draw_few(row[top].tolist(), sampling, random.random())])


def _largest(row: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the `limit` largest entries, the largest first.

    Of a large vocabulary only those are sorted that reach the `limit`-th largest of the maxima of its blocks.
    """
    among: np.ndarray | None = None
    if len(row) >= limit * _BLOCK:
        maxima = row[: len(row) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).max(1)
        among = np.flatnonzero(row >= np.partition(maxima, len(maxima) - limit)[-limit])
        row = row[among]
    top = np.argpartition(row, len(row) - limit)[-limit:]
    top = top[np.argsort(-row[top])]
    return top if among is None else among[top]


@dataclass(frozen=True)
class TextSampler:
    """Chooses the next text id of each row. counts: [V] int32 a row, of the ids in its sequence, to which the penalty
    applies; suppressed: [V] bool a row, True at ids that are never sampled."""

    samplings: Sequence[Sampling]
    randoms: Sequence[Random]
    counts: Sequence[Tensor]
    suppressed: Sequence[Tensor]

    def __call__(self, logits: Tensor) -> list[int]:
        """logits [B, V] -> the id of each row."""
        seen = None
        if any(sampling.repetition_penalty != 1.0 for sampling in self.samplings):
            seen = [counts > 0 for counts in self.counts]
        allowed = logits.masked_fill(torch.stack(list(self.suppressed)), float("-inf"))
        return draw_rows(allowed, self.samplings, self.randoms, seen)


@dataclass(frozen=True)
class CodeSampler:
    """Chooses the codes of a frame, position by position, for each row that generates one.

    may_end: whether a row's audio may end. seen(row, level): [size] bool, the codes that its penalty applies to.
    """

    samplings: Sequence[Sampling]
    randoms: Sequence[Random]
    may_end: Sequence[bool]
    seen: Callable[[int, int], Tensor]

    @property
    def penalised(self) -> bool:
        """Whether the seen codes matter, to any row."""
        return any(sampling.repetition_penalty != 1.0 for sampling in self.samplings)

    def __call__(self, level: int, rows: Sequence[int], logits: Tensor) -> list[int]:
        """logits [rows, size], of level 0 [rows, size + 1] -> the code of each of `rows`, which is then seen."""
        if level == 0 and not all(self.may_end):
            logits = forbid_end(logits, self.may_end)
        penalised = self.penalised
        seen = [self.seen(row, level) for row in rows] if penalised else None
        drawn = draw_rows(logits, [self.samplings[row] for row in rows], [self.randoms[row] for row in rows], seen)
        if penalised:
            for row, code in zip(rows, drawn, strict=True):
                self.seen(row, level)[code] = True
        return drawn


def forbid_end(logits: Tensor, may_end: Sequence[bool]) -> Tensor:
    """logits [B, size + 1] of the first codebook -> the same, without the end of audio in rows that may not end."""
    logits = logits.clone()
    logits[[row for row, may in enumerate(may_end) if not may], -1] = float("-inf")
    return logits


def draw_rows_on_device(
    logits: Tensor, samplings: Sequence[Sampling], randoms: Sequence[Random], seen: Sequence[Tensor] | None
) -> list[int]:
    """`draw_rows` for a GPU: float32 logits [B, V], with few synchronizations for any number of rows."""
    if seen is not None:
        penalty = torch.tensor([[sampling.repetition_penalty] for sampling in samplings], device=logits.device)
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(torch.stack(list(seen)), penalised, logits)
    size = logits.shape[1]
    drawn = [-1] * len(samplings)
    greedy = [row for row, sampling in enumerate(samplings) if sampling.temperature == 0]
    limits = {row: min(how.top_k or size, size) for row, how in enumerate(samplings) if how.temperature != 0}
    few = [row for row, limit in limits.items() if limit <= MAX_SORTED]
    if greedy:
        for row, index in zip(greedy, _rows(logits, greedy).argmax(-1).tolist(), strict=True):
            drawn[row] = index
    if few:
        values, indices = _rows(logits, few).topk(max(limits[row] for row in few))  # most likely first
        for row, row_values, row_indices in zip(few, values.tolist(), indices.tolist(), strict=True):
            rank = _draw_few(row_values[: limits[row]], samplings[row], randoms[row].random())
            drawn[row] = row_indices[rank]
    for row, limit in limits.items():
        if limit > MAX_SORTED:
            drawn[row] = _draw_many(logits[row], limit, samplings[row], randoms[row].random())
    return drawn


def _rows(logits: Tensor, rows: list[int]) -> Tensor:
    return logits if len(rows) == logits.shape[0] else logits[rows]


def _draw_many(logits: Tensor, limit: int, sampling: Sampling, uniform: float) -> int:
    values, indices = logits.topk(limit)
    reached = (values / sampling.temperature).softmax(-1).cumsum(-1)
    kept = int((reached < sampling.top_p * reached[-1]).sum()) + 1  # the first always
    rank = int((reached[:kept] <= uniform * reached[:kept][-1]).sum())
    return int(indices[min(rank, limit - 1)])


def _draw_few(values: list[float], sampling: Sampling, uniform: float) -> int:
    """The sampled rank among a few sorted logits; plain Python is faster than tensors here."""
    weights = [math.exp((value - values[0]) / sampling.temperature) for value in values]
    reached = list(accumulate(weights))
    kept = bisect_left(reached, sampling.top_p * reached[-1]) + 1
    kept = min(kept, len(reached))
    return min(bisect_right(reached, uniform * reached[kept - 1]), kept - 1)

"""Choosing the next id or code from its logits."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

_FEW = 64


@dataclass(frozen=True)
class Sampling:
    """How one id or code is drawn.

    temperature: 0 takes the likeliest (greedy). top_k: draw among so many likeliest, 0 for all.
    top_p: draw among the likeliest that together reach this probability. repetition_penalty: positive logits of what
    has been said already are divided by it and negative ones multiplied, before the temperature (arXiv 1909.05858).
    stop: ids after which a text ends (they are part of it); codes end by their own mark.
    Raises ConfigError for values that make no sense.
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


def draw(logits: Tensor, sampling: Sampling, random: Random, said: Tensor | None = None) -> int:
    """logits [V], said [V] bool (what the penalty counts) -> the index drawn."""
    return draw_rows(logits[None], [sampling], [random], None if said is None else [said])[0]


def draw_rows(
    logits: Tensor, samplings: Sequence[Sampling], randoms: Sequence[Random], said: Sequence[Tensor] | None = None
) -> list[int]:
    """logits [B, V], said B times [V] bool -> the index drawn in each row, as `draw` does for that row alone."""
    logits = logits.detach().float()
    if logits.device.type == "cpu":
        rows = logits.numpy()
        masks = [None] * len(rows) if said is None else [each.numpy() for each in said]
        return [_draw_row(*each) for each in zip(rows, samplings, randoms, masks, strict=True)]
    return draw_together(logits, samplings, randoms, said)


def _draw_row(row: np.ndarray, sampling: Sampling, random: Random, said: np.ndarray | None) -> int:
    """row [V] float32. numpy's calls take a quarter of the time of torch's, and there are eight of these a frame."""
    if said is not None and sampling.repetition_penalty != 1.0:
        penalty = np.float32(sampling.repetition_penalty)
        row = np.where(said, np.where(row > 0, row / penalty, row * penalty), row)
    if sampling.temperature == 0:
        return int(row.argmax())
    limit = min(sampling.top_k or len(row), len(row))
    if limit > _FEW:
        return _draw_many(torch.from_numpy(row), limit, sampling, random.random())
    top = np.argpartition(row, len(row) - limit)[-limit:]
    top = top[np.argsort(-row[top])]  # likeliest first
    return int(top[_draw_few(row[top].tolist(), sampling, random.random())])


def draw_together(
    logits: Tensor, samplings: Sequence[Sampling], randoms: Sequence[Random], said: Sequence[Tensor] | None
) -> list[int]:
    """`draw_rows` for another device: float32 logits [B, V], and few waits for it, however many rows there are."""
    if said is not None:
        penalty = torch.tensor([[sampling.repetition_penalty] for sampling in samplings], device=logits.device)
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(torch.stack(list(said)), penalised, logits)
    size = logits.shape[1]
    drawn = [-1] * len(samplings)
    greedy = [row for row, sampling in enumerate(samplings) if sampling.temperature == 0]
    limits = {row: min(each.top_k or size, size) for row, each in enumerate(samplings) if each.temperature != 0}
    few = [row for row, limit in limits.items() if limit <= _FEW]
    if greedy:
        for row, index in zip(greedy, _rows(logits, greedy).argmax(-1).tolist(), strict=True):
            drawn[row] = index
    if few:
        values, indices = _rows(logits, few).topk(max(limits[row] for row in few))  # likeliest first
        for row, own_values, own_indices in zip(few, values.tolist(), indices.tolist(), strict=True):
            place = _draw_few(own_values[: limits[row]], samplings[row], randoms[row].random())
            drawn[row] = own_indices[place]
    for row, limit in limits.items():
        if limit > _FEW:
            drawn[row] = _draw_many(logits[row], limit, samplings[row], randoms[row].random())
    return drawn


def _rows(logits: Tensor, rows: list[int]) -> Tensor:
    return logits if len(rows) == logits.shape[0] else logits[rows]


def _draw_many(logits: Tensor, limit: int, sampling: Sampling, chance: float) -> int:
    values, indices = logits.topk(limit)
    reached = (values / sampling.temperature).softmax(-1).cumsum(-1)
    kept = int((reached < sampling.top_p * reached[-1]).sum()) + 1  # the first always
    place = int((reached[:kept] <= chance * reached[:kept][-1]).sum())
    return int(indices[min(place, limit - 1)])


def _draw_few(values: list[float], sampling: Sampling, chance: float) -> int:
    """The place drawn among a few logits, the likeliest first; plain Python takes less time than tensors here."""
    weights = [math.exp((value - values[0]) / sampling.temperature) for value in values]
    reached = list(accumulate(weights))
    kept = bisect_left(reached, sampling.top_p * reached[-1]) + 1
    kept = min(kept, len(reached))
    return min(bisect_right(reached, chance * reached[kept - 1]), kept - 1)

"""Choosing the next id or code from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError


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


def draw(
    logits: Tensor, sampling: Sampling, said: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """logits [V], said [V] bool (what the penalty counts) -> the index drawn, an int64 scalar tensor."""
    if said is not None and sampling.repetition_penalty != 1.0:
        penalty = sampling.repetition_penalty
        logits = torch.where(said, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return logits.argmax()
    logits = logits.float() / sampling.temperature
    limit = min(sampling.top_k or logits.shape[0], logits.shape[0])
    logits, indices = logits.topk(limit)  # likeliest first
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
    return indices[torch.multinomial(probabilities, 1, generator=generator)[0]]

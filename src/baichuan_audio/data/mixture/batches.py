"""Drawn sequences as the batches of a run, sorted by length to reduce padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..sequences import TokenSequence


class Batches:
    """step -> the sequences of that step, about `tokens_per_step` positions with padding.

    Sequences are drawn for `group` steps at a time, sorted by length and cut into as many batches, so that
    little is padded and every draw is used.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], TokenSequence],
        tokens_per_step: int,
        seed: int,
        group: int = 8,
    ) -> None:
        self.draw, self.tokens_per_step, self.seed, self.group = draw, tokens_per_step, seed, group
        self._cached: tuple[int, list[list[TokenSequence]]] = (-1, [])

    def __call__(self, step: int) -> list[TokenSequence]:
        index, offset = divmod(step, self.group)
        if self._cached[0] != index:
            self._cached = (index, self._make(index))
        return self._cached[1][offset]

    def _make(self, index: int) -> list[list[TokenSequence]]:
        rng = np.random.default_rng([self.seed, index])
        drawn: list[TokenSequence] = []
        total = 0
        while total < self.tokens_per_step * self.group or len(drawn) < self.group:
            drawn.append(self.draw(rng))
            total += len(drawn[-1])
        drawn.sort(key=len)
        ends = np.cumsum([len(sequence) for sequence in drawn])
        batches: list[list[TokenSequence]] = [[] for _ in range(self.group)]
        for sequence, end in zip(drawn, ends, strict=True):
            batches[min(self.group - 1, int((end - 1) * self.group // ends[-1]))].append(sequence)
        filled = [batch for batch in batches if batch]
        while len(filled) < self.group:  # a very long sequence can leave a batch empty: split the fullest
            fullest = max(filled, key=len)
            half = len(fullest) // 2
            filled.append(fullest[half:])
            del fullest[half:]
        return [filled[index] for index in rng.permutation(self.group)]

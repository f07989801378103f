"""Sequences of different lengths in groups of nearly equal sums: the steps of a window, the packs of a step."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balanced(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Indices of `lengths` in `groups` groups of nearly equal sums, ascending in each; every index in exactly one.

    The longest first, each to the group with the smallest sum (Graham 1969, longest processing time first).
    """
    result: list[list[int]] = [[] for _ in range(groups)]
    sums = [(0, group) for group in range(groups)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        total, group = sums[0]
        result[group].append(index)
        heapq.heapreplace(sums, (total + lengths[index], group))
    return [sorted(group) for group in result]


def pack_efficiency(packs: Sequence[int]) -> float:
    """Share of positions that hold a token where packs of these lengths are worked on side by side."""
    return sum(packs) / (len(packs) * max(packs)) if packs and max(packs) else 1.0

"""Interleaved repeats: every path takes its turn in every round, so that a slow moment hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from .machine import synchronise


@dataclass
class Case:
    """Something to time. `prepare` runs before each repeat, untimed; `work` does `count` units of the stage."""

    work: Callable[[], object]
    count: float = 1.0
    prepare: Callable[[], object] = lambda: None


@dataclass
class Timing:
    """Seconds per unit over the rounds: by the clock, and of processor time (which other programs do not stretch)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def spread(self) -> tuple[float, float]:
        """Lower and upper quartile."""
        if len(self.wall) < 2:
            return self.wall[0], self.wall[0]
        low, _, high = statistics.quantiles(self.wall, n=4, method="inclusive")
        return low, high

    def times_faster_than(self, other: Timing, cpu: bool = False) -> float:
        """The median over the rounds of other's time over this one's."""
        mine, theirs = (self.cpu, other.cpu) if cpu else (self.wall, other.wall)
        return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


_FEWEST = 3


@torch.inference_mode()
def interleave(
    cases: Mapping[str, Case], repeats: int, device: torch.device, seconds: float = math.inf
) -> dict[str, Timing]:
    """Time each case `repeats` times, one after another in each round, after one round that does not count.

    After so many `seconds` no further round begins, if there have been three.
    """
    timings = {name: Timing() for name in cases}
    begun = time.perf_counter()
    for turn in range(repeats + 1):
        if turn > _FEWEST and time.perf_counter() - begun > seconds:
            break
        for name, case in cases.items():
            case.prepare()
            synchronise(device)
            wall, cpu = time.perf_counter(), time.process_time()
            case.work()
            synchronise(device)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                timings[name].wall.append(wall / case.count)
                timings[name].cpu.append(cpu / case.count)
    return timings

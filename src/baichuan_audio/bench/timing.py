"""Timing: interleaved repeats, so that a slow moment affects every path alike; and start-up in a new process."""

from __future__ import annotations

import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from ..errors import BaichuanAudioError
from .machine import synchronise


@dataclass
class Case:
    """Work to time. `prepare` runs before each repeat, untimed; `work` does `count` units of the stage."""

    work: Callable[[], object]
    count: float = 1.0
    prepare: Callable[[], object] = lambda: None


@dataclass
class Timing:
    """Seconds per unit in each round: wall time, and CPU time, which other programs hardly change."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def spread(self) -> tuple[float, float]:
        """Lower and upper quartile of the wall time."""
        if len(self.wall) < 2:
            return self.wall[0], self.wall[0]
        low, _, high = statistics.quantiles(self.wall, n=4, method="inclusive")
        return low, high

    def times_faster_than(self, other: Timing, cpu: bool = False) -> float:
        """Median over the rounds of the ratio other / self."""
        mine, theirs = (self.cpu, other.cpu) if cpu else (self.wall, other.wall)
        return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


_MIN_ROUNDS = 3


@torch.inference_mode()
def interleave(
    cases: Mapping[str, Case], repeats: int, device: torch.device, seconds: float = math.inf
) -> dict[str, Timing]:
    """Time each case `repeats` times, all cases once in each round, after one warm-up round.

    After `seconds` no further round begins, but there are at least three.
    """
    timings = {name: Timing() for name in cases}
    begun = time.perf_counter()
    for round_number in range(repeats + 1):
        if round_number > _MIN_ROUNDS and time.perf_counter() - begun > seconds:
            break
        for name, case in cases.items():
            case.prepare()
            synchronise(device)
            wall, cpu = time.perf_counter(), time.process_time()
            case.work()
            synchronise(device)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if round_number:
                timings[name].wall.append(wall / case.count)
                timings[name].cpu.append(cpu / case.count)
    return timings


_READY = """
import sys, torch
from baichuan_audio.acceleration import load_for_inference
torch.set_num_threads(int(sys.argv[4]))
load_for_inference(sys.argv[1], None, getattr(torch, sys.argv[2]), sys.argv[3])
"""


def startup(directory: str, dtype: str, device: str, threads: int, repeats: int = 3) -> dict[str, float]:
    """Import, load and optimize a model in a new interpreter -> wall and CPU seconds, the best of `repeats`.

    The first repeat also fills the file cache. Raises BaichuanAudioError when the program fails.
    """
    wall, cpu = [], []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        command = [sys.executable, "-c", _READY, directory, dtype, device, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BaichuanAudioError(f"start-up failed: {done.stderr.strip().splitlines()[-1]}")
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": min(wall), "cpu": min(cpu)}

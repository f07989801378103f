"""Captured steps: each kind of step, for each shape, becomes one CUDA graph at first use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

_WARM_UPS = 3


class Graphs:
    """Runs steps as CUDA graphs that share one memory pool. A step must bear being run several times."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """`step` once; captured at the first call with this key, replayed from then on."""
        if key not in self._graphs:
            self._graphs[key] = self._captured(step)
        self._graphs[key].replay()

    def _captured(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # allocations, compilation and library handles come before the capture
            for _ in range(_WARM_UPS):
                step()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        return graph

"""CUDA graphs: one for each kind and shape of step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

_WARM_UPS = 3
_CAPTURING = threading.Lock()
"""A capture first synchronizes the device, which another capture in progress forbids: one thread at a time."""


class Graphs:
    """Steps as CUDA graphs by key, sharing one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def replay(self, key: Hashable) -> None:
        """Run the captured step once."""
        self._graphs[key].replay()

    def capture(self, key: Hashable, step: Callable[[], None]) -> None:
        """Capture `step`, after running it a few times, which must have no lasting effect."""
        with _CAPTURING:
            self._graphs[key] = self._captured(step)

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
        # other threads of the engine may use the device, and allocate, meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        return graph


def bucket(count: int) -> int:
    """The least power of two that is not below `count`; 0 for 0."""
    return 1 << (count - 1).bit_length() if count else 0

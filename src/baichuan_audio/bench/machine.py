"""The machine and its two ceilings: memory bandwidth and matrix multiplication."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from ..acceleration.cpu.kernels import library


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> dict[str, Any]:
    """Facts that a reader needs to compare results: CPU, threads, versions, date, load."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if hasattr(os, "getloadavg"):
        facts["load_average"] = round(os.getloadavg()[0], 1)
    if device.type == "cpu":
        facts |= {"native": library() is not None, "instructions": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measured `bytes_per_second` (a large copy; reads plus writes) and `operations_per_second` (a matrix product).

    The best of several repeats: a ceiling is what the machine reaches undisturbed.
    """
    cuda = device.type == "cuda"
    source = torch.randint(0, 255, (1 << 30 if cuda else 1 << 27,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = _best(lambda: target.copy_(source), device)
    size = 8192 if cuda else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product_seconds = _best(lambda: left @ right, device)
    return {
        "bytes_per_second": 2 * source.nbytes / copy_seconds,
        "operations_per_second": 2 * size**3 / product_seconds,
    }


def _best(work: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

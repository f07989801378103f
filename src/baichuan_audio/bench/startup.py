"""From nothing to ready: a fresh interpreter imports, loads and prepares a model."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from ..errors import BaichuanAudioError

_READY = """
import sys, torch, baichuan_audio
from baichuan_audio.fast import accelerate
torch.set_num_threads(int(sys.argv[4]))
accelerate(baichuan_audio.load(sys.argv[1], dtype=getattr(torch, sys.argv[2]), device=sys.argv[3]))
"""


def startup(directory: str, dtype: str, device: str, threads: int, repeats: int = 3) -> dict[str, float]:
    """Seconds by the clock and of processor time, the best of `repeats` (the first also fills the file cache)."""
    wall, processor = [], []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        command = [sys.executable, "-c", _READY, directory, dtype, device, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BaichuanAudioError(f"starting up failed: {done.stderr.strip().splitlines()[-1]}")
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": min(wall), "processor": min(processor)}

"""Runs of two processes that end at random moments, also inside a write: what follows equals the unbroken run.

`FAULTS=20 python -m pytest tests/training/test_faults.py` tries as many moments, evenly of all kinds.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_workspace import make_workspace
from processes import Processes, run_in
from test_distributed import flow_recipe, steps

from baichuan_audio.training.common.checkpointing import module_weights
from baichuan_audio.training.common.distributed.run import STOPPED
from baichuan_audio.training.common.distributed.state_files import is_complete
from baichuan_audio.training.common.logging import TrainingLog
from baichuan_audio.training.flow import train as flow

FAULTS = int(os.environ.get("FAULTS", "5"))
KINDS = ("SIGTERM", "SIGKILL", "lost process", "full disk", "torn write")
MOST_STEPS = 2
"""Steps of a start before its fault."""
LEAST_BYTES = 1 << 14


@dataclass(frozen=True)
class Fault:
    """Comes to process `victim`, to both with SIGKILL, `delay_s` after `start_step` began: to a file of `size` bytes
    where it is about writing."""

    kind: str
    victim: int
    start_step: int
    delay_s: float
    size: int

    def arm(self, rank: int) -> None:
        if self.kind == "SIGKILL" or rank == self.victim:
            signal_ = signal.SIGTERM if self.kind == "SIGTERM" else signal.SIGKILL
            if self.kind in ("full disk", "torn write"):
                if self.kind == "torn write":  # the kernel ends the process in the middle of a file
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
            else:
                threading.Timer(self.delay_s, os.kill, (os.getpid(), signal_)).start()

    def ends(self) -> list[set[int]]:
        """Exit codes that each process may have."""
        if self.kind in ("SIGTERM", "SIGKILL"):
            return [{STOPPED if self.kind == "SIGTERM" else -signal.SIGKILL}] * 2
        victim = {"lost process": -signal.SIGKILL, "full disk": 1, "torn write": -signal.SIGXFSZ}[self.kind]
        return [{victim} if rank == self.victim else {1} for rank in range(2)]


def train_until(recipe: flow.FlowRecipe, fault: Fault, rank: int) -> None:
    real = flow.compute_losses
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def armed(*arguments: Any) -> dict[str, torch.Tensor]:
        if arguments[-1] == fault.start_step:
            fault.arm(rank)
        return real(*arguments)

    flow.compute_losses = armed
    flow.train(recipe)


def newest(folder: Path) -> int:
    """The step of the newest state; all of them must be complete."""
    states = sorted(path for path in folder.glob("state-*") if path.suffix == "")
    assert all(map(is_complete, states)), states
    return int(states[-1].name[6:]) if states else 0


@pytest.mark.usefixtures("plain_log")
def test_after_faults_at_random_moments_it_ends_like_the_unbroken_run(tmp_path: Path) -> None:
    root, random = make_workspace(tmp_path), np.random.default_rng(FAULTS)
    settings = {"steps": (MOST_STEPS + 1) * FAULTS, "checkpoint_every": 1, "train_audio_decoder": False}
    whole, broken = (flow_recipe(root, tmp_path / name, **settings) for name in ("whole", "broken"))
    run_in(2, lambda rank: flow.train(whole))
    files = [path.stat().st_size for path in next((tmp_path / "whole").glob("state-*")).glob("*.distcp")]
    seconds = list(steps(tmp_path / "whole", "elapsed_s").values())[-1]
    for number in range(FAULTS):
        done = newest(tmp_path / "broken")
        fault = Fault(
            KINDS[number % len(KINDS)],
            int(random.integers(2)),
            done + int(random.integers(MOST_STEPS)),
            float(random.uniform(0, seconds / whole.steps)),
            int(random.integers(LEAST_BYTES, min(files))),  # every process writes more
        )
        both = Processes(2, lambda rank, fault=fault: train_until(broken, fault, rank))
        codes, errors = both.join(), [both.errors(rank) for rank in range(2)]
        print(fault, codes, f"state {done} -> {newest(tmp_path / 'broken')}")
        assert all(code in may for code, may in zip(codes, fault.ends(), strict=True)), (fault, codes, *errors)
        assert all("TrainingError" in error for code, error in zip(codes, errors, strict=True) if code == 1), errors
        assert newest(tmp_path / "broken") >= max(done, fault.start_step - 1)
    run_in(2, lambda rank: flow.train(broken))
    assert steps(tmp_path / "broken") == steps(tmp_path / "whole")
    one, two = (module_weights(tmp_path / name, "flow") for name in ("broken", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "broken").glob("*.part"))


def test_a_log_that_ends_in_half_a_line_goes_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with TrainingLog(tmp_path, 9) as log:
        log.scalars(2, {"loss": 3.0})
    assert steps(tmp_path) == {1: 2.0, 2: 3.0}

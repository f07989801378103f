"""Runs the stages of nano's training, two at a time where they do not wait for each other.

Stopped at any point and started again, it goes on where it was: what is finished leaves a mark in WORK/done, and every
training stage resumes exactly.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from baichuan_audio.errors import BaichuanAudioError, ConfigError

from .commands import ROOT, guarded
from .stages import Settings, Stage, stages

JOBS = 2
"""Stages at a time: most of them use one core."""
_SHOWN_LINES = 12


class StageError(BaichuanAudioError):
    """A stage failed, or cannot begin."""


class Executor(Protocol):
    """What runs the stages."""

    def __call__(self, stage: Stage, log: Path) -> None:
        """Run one command, its output appended to `log`. Raises StageError where it fails."""

    def stop(self) -> None:
        """End what runs, and start no more."""


class Processes:
    """Runs stages as child processes."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def __call__(self, stage: Stage, log: Path) -> None:
        with log.open("ab") as file, self._lock:
            if self._stopped:
                raise StageError(f"{stage.name} was stopped.")
            child = subprocess.Popen([sys.executable, *stage.command], stdout=file, stderr=subprocess.STDOUT)
            self._running.add(child)
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        if code:
            end = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()[-_SHOWN_LINES:]
            raise StageError(
                f"{stage.name} failed with code {code}; its output is in {log}. It ends: {' / '.join(end)}"
            )

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()


class Pipeline:
    """The stages, and which of them are done in the folder `work`."""

    def __init__(self, chosen: Sequence[Stage], work: str | Path) -> None:
        self.stages, self.work = list(chosen), Path(work)

    def is_done(self, stage: Stage) -> bool:
        """Whether an earlier run finished it."""
        return (self.work / "done" / stage.name).exists()

    def waits_for(self, stage: Stage) -> list[Stage]:
        """The stages before it that write what it reads."""
        before = self.stages[: self.stages.index(stage)]
        return [other for other in before if set(other.outputs) & set(stage.inputs)]

    def run(self, execute: Executor, only: Sequence[str] = ()) -> None:
        """Run what is not done yet, with `only` just those stages.

        Raises StageError at the first that fails; the one beside it is stopped, and goes on in the next run.
        """
        waiting = [stage for stage in self.stages if not self.is_done(stage)]
        if only:
            waiting = [stage for stage in waiting if stage.name in only]
            self._check_inputs(waiting)
        for folder in ("done", "logs"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(JOBS) as pool:
            try:
                self._run_all(waiting, execute, pool)
            except BaseException:
                execute.stop()  # before the pool waits for what runs
                raise

    def _run_all(self, waiting: list[Stage], execute: Executor, pool: ThreadPoolExecutor) -> None:
        running: dict[Future[None], Stage] = {}
        while waiting or running:
            unfinished = {stage.name for stage in [*waiting, *running.values()]}
            ready = [s for s in waiting if not unfinished & {other.name for other in self.waits_for(s)}]
            for stage in ready[: JOBS - len(running)]:
                waiting.remove(stage)
                running[pool.submit(self._run_one, stage, execute)] = stage
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                del running[future]
                future.result()

    def _run_one(self, stage: Stage, execute: Executor) -> None:
        log = self.work / "logs" / f"{stage.name}.log"
        print(f"nano: {stage.name} (its output: {log})", file=sys.stderr, flush=True)
        start = time.monotonic()
        execute(stage, log)
        missing = [path for path in stage.outputs if not Path(path).exists()]
        if missing:
            raise StageError(f"{stage.name} ended without writing {missing[0]}; see {log}.")
        (self.work / "done" / stage.name).write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))
        print(f"nano: {stage.name} is done, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    def _check_inputs(self, chosen: Sequence[Stage]) -> None:
        made = {path for stage in chosen for path in stage.outputs}
        for stage in chosen:
            missing = [path for path in stage.inputs if path not in made and not Path(path).exists()]
            if missing:
                raise StageError(f"{stage.name} reads {missing[0]}, which is not there; run the stage that writes it.")

    def show(self) -> None:
        """Print every stage's command, or that it is done."""
        for stage in self.stages:
            print(f"{stage.name}: {'done' if self.is_done(stage) else shlex.join(['python', *stage.command])}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `run.py`."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Train nano from pretrained parts. SPEECH in the environment names recordings, NANO=quick "
        "rehearses every stage (recipes/nano/README.md).",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="run only these (default: all that are not done)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return guarded(_main, parser.parse_args(argv))


def _main(arguments: argparse.Namespace) -> None:
    os.chdir(ROOT.parents[1])  # recipes name their files from the repository's root
    settings = Settings.from_environment(os.environ)
    pipeline = Pipeline(stages(settings), settings.work)
    names = [stage.name for stage in pipeline.stages]
    for name in arguments.stages:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}."
            raise ConfigError(f"there is no stage {name}; {hint}")
    if arguments.dry_run:
        pipeline.show()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which stops the stages that run
    pipeline.run(Processes(), arguments.stages)
    if not arguments.stages:
        print(f"nano: {settings.output} is ready", file=sys.stderr)

"""Log of a run: JSONL and TensorBoard scalars, mel pictures, sounds, a progress bar."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ...audio.waveform import save_waveform
from ...errors import TrainingError


class TrainingLog:
    """Log of one stage in `directory`: `log.jsonl`, `tensorboard/`, `samples/`; a context manager.

    TensorBoard, matplotlib and tqdm are used where they are installed. One that is not `active` writes nothing: of
    several processes one writes.
    """

    def __init__(
        self, directory: str | os.PathLike[str], total_steps: int, first_step: int = 0, active: bool = True
    ) -> None:
        self.directory = Path(directory)
        self._active = active
        self._board = self._bar = None
        self._start, self._first_step = time.monotonic(), first_step
        if not active:
            return
        (self.directory / "samples").mkdir(parents=True, exist_ok=True)
        path = self.directory / "log.jsonl"
        _cut_torn_line(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self._board = _tensorboard(self.directory / "tensorboard")
        self._bar = _progress(total_steps, first_step)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self) -> None:
        """Count one step on the progress bar."""
        if self._bar is not None:
            self._bar.update(1)

    def scalars(self, step: int, values: Mapping[str, float], worst_samples: Sequence[str] = ()) -> None:
        """One line of `log.jsonl`, values rounded to six digits; `step` counts the steps done.

        worst_samples: ids of the samples with the highest loss.
        """
        if not self._active:
            return
        elapsed = time.monotonic() - self._start
        rate = (step - self._first_step) / max(elapsed, 1e-9)
        row: dict[str, Any] = {"step": step, "elapsed_s": round(elapsed, 1), "steps_per_s": round(rate, 3)}
        row |= {name: float(f"{value:.6g}") for name, value in values.items()}
        if worst_samples:
            row["worst_samples"] = list(worst_samples)
        self._write(row)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in list(values.items())[:4]})

    def event(self, step: int, values: Mapping[str, object]) -> None:
        """One line of `log.jsonl` about something that is no number."""
        if self._active:
            self._write({"step": step, **values})

    def _write(self, row: Mapping[str, object]) -> None:
        try:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._file.name}: cannot be written ({error.strerror}); the last state is kept."
            ) from error

    def text(self, step: int, name: str, text: str) -> None:
        """A text sample."""
        (self.directory / "samples" / f"{step:08d}-{name}.txt").write_text(text, encoding="utf-8")
        if self._board is not None:
            self._board.add_text(name, text, step)

    def audio(self, step: int, name: str, waveform: Tensor, sample_rate: int) -> None:
        """An audio sample: waveform [S]."""
        save_waveform(self.directory / "samples" / f"{step:08d}-{name}.wav", waveform, sample_rate)
        if self._board is not None:
            self._board.add_audio(name, waveform.detach().cpu()[None], step, sample_rate=sample_rate)

    def mel(self, step: int, name: str, *mels: Tensor) -> None:
        """A picture of one or more mels [M, T], one above the other."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        figure = Figure(figsize=(9, 2.4 * len(mels)), layout="constrained")
        for row, mel in enumerate(mels):
            axes = figure.add_subplot(len(mels), 1, row + 1)
            axes.imshow(mel.detach().float().cpu().numpy(), origin="lower", aspect="auto", cmap="magma")
            axes.set_ylabel("mel bin")
        axes.set_xlabel("frame")
        figure.savefig(self.directory / "samples" / f"{step:08d}-{name}.png", dpi=80)

    def close(self) -> None:
        if self._active:
            with suppress(OSError):  # what could not be written was told before
                self._file.close()
        if self._board is not None:
            self._board.close()
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class Reconstruction:
    """A validation clip and what a model makes of it: errors by name, mels [M, T] to draw (none: no picture) and the
    waveform [S]."""

    name: str
    errors: Mapping[str, float]
    mels: Sequence[Tensor]
    waveform: Tensor


@torch.no_grad()
def log_reconstructions(
    log: TrainingLog, step: int, model: nn.Module, clips: Iterable[Reconstruction], sample_rate: int
) -> None:
    """Log pictures and sounds of validation clips, and the means of their errors as `validation/<name>`.

    `clips` is consumed with `model` in evaluation mode; random generators are left as they were, so that a look at the
    model does not change its training.
    """
    totals: dict[str, list[float]] = {}
    model.eval()
    with torch.random.fork_rng():
        for clip in clips:
            for name, value in clip.errors.items():
                totals.setdefault(f"validation/{name}", []).append(value)
            log.audio(step, clip.name, clip.waveform, sample_rate)
            if clip.mels:
                log.mel(step, clip.name, *clip.mels)
    model.train()
    if totals:
        log.scalars(step, {name: sum(values) / len(values) for name, values in totals.items()})


def _cut_torn_line(path: Path) -> None:
    """Remove a last line of which a full disk or a killed process has left a part."""
    if path.is_file():
        written = path.read_bytes()
        os.truncate(path, written.rfind(b"\n") + 1)


def _tensorboard(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory))  # type: ignore[no-untyped-call]


def _progress(total: int, first: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=first, unit="step", dynamic_ncols=True, mininterval=1.0)


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every so many steps is due after `step` of them, or the run ends there."""
    return step % every == 0 or step == last

"""Figures as JSON, as a Markdown table, and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.mel import FLOW_MEL, natural_log_mel
from ..errors import MissingDependencyError


@dataclass(frozen=True)
class Figure:
    """One measured value. `n` is what it was measured on; `target` reads like "<= 0.08", empty for none."""

    name: str
    value: float
    n: int
    unit: str = ""
    target: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if not self.target:
            return None
        sign, limit = self.target.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)

    def shown(self) -> str:
        """The value as people read it: shares in per cent."""
        return _shown(self.value, self.unit)


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.3g} {unit}".strip()


def markdown_table(figures: Sequence[Figure]) -> str:
    """A table for the model card."""
    lines = ["| measured | value | target | n | |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        target = ""
        if figure.target:
            sign, limit = figure.target.split()
            target = f"{'≥' if sign == '>=' else '≤'} {_shown(float(limit), figure.unit)} {'✓' if figure.met else '✗'}"
        lines.append(f"| {figure.name} | {figure.shown()} | {target} | {figure.n} | {figure.note} |")
    return "\n".join(lines) + "\n"


def write_figures(
    figures: Sequence[Figure], details: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], output: str | Path
) -> None:
    """`figures.json`, `figures.md` and `details.jsonl` (every item, right or wrong) in the folder `output`."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    rows = [asdict(figure) | {"met": figure.met} for figure in figures]
    (output / "figures.json").write_text(
        json.dumps({"facts": dict(facts), "figures": rows}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    stated = "; ".join(f"{name}: {value}" for name, value in facts.items())
    (output / "figures.md").write_text(f"{markdown_table(figures)}\n{stated}\n", encoding="utf-8")
    with (output / "details.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in details)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingDependencyError("pictures need matplotlib: pip install 'baichuan-audio[plot]'.") from error
    return Canvas(figsize=(width, height), layout="constrained")


def plot_mels(waveforms: Mapping[str, np.ndarray], sample_rate: int, path: str | Path) -> None:
    """Named waveforms [S] as natural-log mels, one above the other, on one colour scale."""
    import torch

    from ..audio.waveform import resample

    figure = _figure(9, 2.4 * len(waveforms))
    mels = {
        name: natural_log_mel(resample(torch.from_numpy(samples), sample_rate, FLOW_MEL.sample_rate)[None])[0]
        for name, samples in waveforms.items()
    }
    lowest, highest = min(float(m.min()) for m in mels.values()), max(float(m.max()) for m in mels.values())
    for row, (name, mel) in enumerate(mels.items(), 1):
        axes = figure.add_subplot(len(mels), 1, row)
        seconds = mel.shape[1] * FLOW_MEL.hop_length / FLOW_MEL.sample_rate
        axes.imshow(
            mel.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=lowest, vmax=highest,
            extent=(0, seconds, 0, mel.shape[0]),
        )  # fmt: skip
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel("mel bin")
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def plot_latency(first_sound_s: Sequence[float], real_time_factors: Sequence[float], path: str | Path) -> None:
    """How long until the first sound, and compute time over sound time, of every spoken answer."""
    figure = _figure(9, 3)
    for column, (values, label) in enumerate(
        ((first_sound_s, "first sound after the question's end (s)"), (real_time_factors, "real-time factor")), 1
    ):
        axes = figure.add_subplot(1, 2, column)
        axes.hist(values, bins=30, color="#4c72b0")
        axes.axvline(float(np.median(values)), color="black", linestyle="--", label="median")
        axes.set_xlabel(label)
        axes.set_ylabel("answers")
        axes.legend()
    figure.savefig(path, dpi=110)

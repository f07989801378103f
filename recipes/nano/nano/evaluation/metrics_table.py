"""Metrics as JSON and as a Markdown table, and a plot of latencies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_audio.evaluation.report.mels import figure


@dataclass(frozen=True)
class Metric:
    """One measured value. `n`: number of items; `target`: e.g. "<= 0.08", empty for none."""

    name: str
    value: float
    n: int
    unit: str = ""
    target: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if not self.target:
            return None
        sign, limit = self.target.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)

    def shown(self) -> str:
        """The value with its unit; shares in per cent."""
        return _shown(self.value, self.unit)


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.3g} {unit}".strip()


def markdown_table(metrics: Sequence[Metric]) -> str:
    """A table for the model card."""
    lines = ["| measured | value | target | n | |", "| --- | --- | --- | --- | --- |"]
    for metric in metrics:
        target = ""
        if metric.target:
            sign, limit = metric.target.split()
            target = f"{'≥' if sign == '>=' else '≤'} {_shown(float(limit), metric.unit)} {'✓' if metric.met else '✗'}"
        lines.append(f"| {metric.name} | {metric.shown()} | {target} | {metric.n} | {metric.note} |")
    return "\n".join(lines) + "\n"


def write_metrics(
    metrics: Sequence[Metric], details: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], output: str | Path
) -> None:
    """Write `metrics.json`, `metrics.md` and `details.jsonl` (one row per item) into the folder `output`."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    rows = [asdict(metric) | {"met": metric.met} for metric in metrics]
    (output / "metrics.json").write_text(
        json.dumps({"facts": dict(facts), "metrics": rows}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    summary = "; ".join(f"{name}: {value}" for name, value in facts.items())
    (output / "metrics.md").write_text(f"{markdown_table(metrics)}\n{summary}\n", encoding="utf-8")
    with (output / "details.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in details)


def plot_latency(first_audio_s: Sequence[float], real_time_factors: Sequence[float], path: str | Path) -> None:
    """Plot histograms of the time to first audio and of the real-time factor of spoken replies."""
    canvas = figure(9, 3)
    for column, (values, label) in enumerate(
        ((first_audio_s, "time to first audio (s)"), (real_time_factors, "real-time factor")), 1
    ):
        axes = canvas.add_subplot(1, 2, column)
        axes.hist(values, bins=30, color="#4c72b0")
        axes.axvline(float(np.median(values)), color="black", linestyle="--", label="median")
        axes.set_xlabel(label)
        axes.set_ylabel("replies")
        axes.legend()
    canvas.savefig(path, dpi=110)

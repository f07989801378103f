"""Plots of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError

_COLOURS = {"reference": "#b0b0b0", "optimized": "#1f77b4", "int8": "#2ca02c", "int4": "#9467bd", "fp8": "#ff7f0e"}


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'baichuan-audio[plot]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def plot_paths(result: Mapping[str, Any], file: Path) -> None:
    """Time per unit of every stage that has a reference path, with quartiles, and the floor as a mark."""
    pyplot = _pyplot()
    stages = [stage for stage in result["stages"] if "reference" in stage["paths"]]
    paths = list(stages[0]["paths"])
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.34 * len(stages) * len(paths)))
    for number, stage in enumerate(stages):
        for index, path in enumerate(paths):
            row = stage["paths"][path]
            at = number + (index + 0.5) / len(paths) * 0.8 - 0.4
            value, low, high = (1e3 * row[key] for key in ("median", "low", "high"))
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            label = path if number == 0 else None
            axes.barh(at, value, 0.8 / len(paths), xerr=error, color=_COLOURS.get(path), label=label, ecolor="#404040")
            if "floor" in row:
                axes.plot(1e3 * row["floor"], at, "|", color="black", markersize=9)
    axes.set_yticks(range(len(stages)), [f"{stage['title']} (per {stage['unit']})" for stage in stages])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms (| = floor)")
    axes.set_title(result["model"]["name"])
    axes.legend(loc="upper right")  # the bars there are the shortest
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def plot_sweep(rows: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Time to first audio and real-time factor over the number of concurrent dialogues."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    sessions = [row["sessions"] for row in rows]
    for key, label in (("first_audio_p50", "median"), ("first_audio_p95", "95th percentile")):
        left.plot(sessions, [row[key] for row in rows], marker="o", label=label)
    left.set_ylabel("time to first audio, s")
    left.legend()
    right.plot(sessions, [row["rtf_p50"] for row in rows], marker="o", label="median")
    right.plot(sessions, [row["rtf_p95"] for row in rows], marker="o", label="95th percentile")
    right.axhline(1.0, color="#b0b0b0", linestyle="--")
    right.set_ylabel("RTF")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("concurrent dialogues")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sessions, [str(count) for count in sessions])
        axes.set_ylim(bottom=0)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)

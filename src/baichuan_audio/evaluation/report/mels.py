"""Plots of mel spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...audio.mel import FLOW_MEL, natural_log_mel
from ...errors import needed_library


def figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches. Raises MissingDependencyError without it."""
    with needed_library("plots need matplotlib: pip install 'baichuan-audio[plot]'."):
        from matplotlib.figure import Figure as Canvas
    return Canvas(figsize=(width, height), layout="constrained")


def plot_mels(waveforms: Mapping[str, np.ndarray], sample_rate: int, path: str | Path) -> None:
    """Plot named waveforms [S] as natural-log mels, one above the other, on one colour scale."""
    import torch

    from ...audio.waveform import resample

    canvas = figure(9, 2.4 * len(waveforms))
    mels = {
        name: natural_log_mel(resample(torch.from_numpy(samples), sample_rate, FLOW_MEL.sample_rate)[None])[0]
        for name, samples in waveforms.items()
    }
    lowest, highest = min(float(m.min()) for m in mels.values()), max(float(m.max()) for m in mels.values())
    for row, (name, mel) in enumerate(mels.items(), 1):
        axes = canvas.add_subplot(len(mels), 1, row)
        seconds = mel.shape[1] * FLOW_MEL.hop_length / FLOW_MEL.sample_rate
        axes.imshow(
            mel.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=lowest, vmax=highest,
            extent=(0, seconds, 0, mel.shape[0]),
        )  # fmt: skip
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel("mel bin")
    axes.set_xlabel("seconds")
    canvas.savefig(path, dpi=110)

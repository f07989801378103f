"""Pictures that the commands draw; matplotlib is loaded only here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor

    from ..audio.mel import MelConfig


def require_matplotlib() -> None:
    """Fail early, before any work, when pictures cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("drawing needs matplotlib: pip install 'baichuan-audio[plot]'.")


def draw_mels(path: str | Path, mels: Mapping[str, Tensor], config: MelConfig) -> None:
    """Named natural-log mels [M, L] one above the other, on one colour scale, time in seconds."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6 * len(mels)), layout="constrained")
    lowest = min(float(mel.min()) for mel in mels.values())
    highest = max(float(mel.max()) for mel in mels.values())
    for row, (name, mel) in enumerate(mels.items(), 1):
        axes = figure.add_subplot(len(mels), 1, row)
        seconds = mel.shape[1] * config.hop_length / config.sample_rate
        image = axes.imshow(
            mel.numpy(),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=lowest,
            vmax=highest,
            extent=(0, seconds, 0, mel.shape[0]),
        )
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel("mel bin")
        figure.colorbar(image, ax=axes, label="ln magnitude")
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=110)

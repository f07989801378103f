"""The old name of `data.importers`, kept for one release."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from . import importers


def read_recordings(source: str | Path) -> Iterator[importers.Recording]:
    """`importers.read_recordings` under its old name."""
    warnings.warn(
        "baichuan_audio.data.readers.read_recordings is now baichuan_audio.data.importers.read_recordings.",
        DeprecationWarning,
        stacklevel=2,
    )
    return importers.read_recordings(source)

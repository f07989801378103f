"""The old name of `data.importers`, kept for one release."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from .importers import Recording, read_manifest


def read_recordings(source: str | Path) -> Iterator[Recording]:
    """`importers.read_manifest` under its old name; folders of LibriSpeech and AISHELL are refused now."""
    warnings.warn(
        "baichuan_audio.data.readers.read_recordings is now baichuan_audio.data.importers.read_manifest.",
        DeprecationWarning,
        stacklevel=2,
    )
    return read_manifest(source)

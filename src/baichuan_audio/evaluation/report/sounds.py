"""Sounds of a report: put into the page as MP3, or linked beside it."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from ...errors import AudioError

_RATE = 24_000  # which MP3 has


class Sounds:
    """Makes the source of an audio element from a file.

    page: where the report will be. embed: put the sound itself into the page; else a relative link. Two uses of one
    file cost twice, so use it once.
    """

    def __init__(self, page: Path, embed: bool) -> None:
        self._folder, self._embed = page.resolve().parent, embed

    def player(self, path: Path | None, label: str) -> str:
        """An audio element with controls, or a note that there is no sound."""
        from .html import text

        source = self._source(path) if path is not None and path.is_file() else None
        if source is None:
            return '<span class="note">no sound</span>'
        return f'<audio controls preload="none" aria-label="{text(label)}" src="{text(source)}"></audio>'

    def _source(self, path: Path) -> str | None:
        if not self._embed:
            return quote(Path(os.path.relpath(path.resolve(), self._folder)).as_posix())
        from ...audio.reading import read_audio

        try:
            waveform, _ = read_audio(path, _RATE)
        except AudioError:
            return None
        file = io.BytesIO()
        soundfile.write(file, np.clip(np.asarray(waveform, np.float32), -1, 1), _RATE, format="MP3")
        return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")

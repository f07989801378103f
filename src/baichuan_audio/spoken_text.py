"""The old name of `text.normalization`, kept for one release."""

from __future__ import annotations

import warnings

from .text.normalization import normalize_for_speech


def for_speech(text: str, language: str | None = None) -> str:
    """`normalize_for_speech` under its old name."""
    warnings.warn(
        "baichuan_audio.spoken_text.for_speech is now baichuan_audio.text.normalization.normalize_for_speech.",
        DeprecationWarning,
        stacklevel=2,
    )
    return normalize_for_speech(text, language)

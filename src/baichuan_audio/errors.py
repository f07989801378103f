"""The exceptions of this package; each message is one clear sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class BaichuanAudioError(Exception):
    """Base class; the text says what was wrong, where, and what to do."""


class ConfigError(BaichuanAudioError):
    """A configuration or recipe has a missing, unknown or impossible entry."""


class CheckpointError(BaichuanAudioError):
    """A checkpoint directory or one of its files cannot be used."""


class AudioError(BaichuanAudioError):
    """Audio cannot be read, or is empty, too short, too long or not finite."""


class NoSpeechError(AudioError):
    """A message has audio without speech, and no text."""


class PromptError(BaichuanAudioError):
    """A message or dialogue has a form that the model cannot use."""


class PromptTooLongError(PromptError):
    """A message or dialogue leaves no room for a reply."""


class DataError(BaichuanAudioError):
    """A manifest, corpus or packed store is missing or damaged."""


class TrainingError(BaichuanAudioError):
    """A training stage cannot start, continue or resume."""


class MissingDependencyError(BaichuanAudioError):
    """An optional library or program is not installed; the text names what to install."""


@contextlib.contextmanager
def needed_library(sentence: str) -> Iterator[None]:
    """Around the import of a library that an extra brings. Raises MissingDependencyError(sentence) without it."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(sentence) from error

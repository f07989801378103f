"""Everything this package raises on purpose: one small tree, each message one clear sentence."""


class BaichuanAudioError(Exception):
    """Base of all errors raised on purpose; its text says what was wrong, where, and what to do."""


class ConfigError(BaichuanAudioError):
    """A configuration or recipe has a missing, unknown or impossible entry."""


class CheckpointError(BaichuanAudioError):
    """A checkpoint directory or one of its files cannot be used."""


class AudioError(BaichuanAudioError):
    """Audio cannot be read, or is empty, too short, too long or not finite."""


class NoSpeechError(AudioError):
    """Nobody speaks in the audio of a message, and there is nothing else in it."""


class PromptError(BaichuanAudioError):
    """A message or dialogue has a form the model cannot take."""


class PromptTooLongError(PromptError):
    """A message or dialogue is longer than can be read together with an answer."""


class DataError(BaichuanAudioError):
    """A manifest, corpus or packed store is missing or damaged."""


class TrainingError(BaichuanAudioError):
    """A training stage cannot start, go on or resume."""


class MissingDependencyError(BaichuanAudioError):
    """An optional library or program is not installed; the text names what to install."""

"""Codes to sound: whole, or while the codes are still coming."""

from .crossfade import Joiner, sentence_pause
from .full import synthesize
from .stream import CHUNK_FRAMES, FIRST_CHUNK_FRAMES, SpeechStream

__all__ = ["CHUNK_FRAMES", "FIRST_CHUNK_FRAMES", "Joiner", "SpeechStream", "sentence_pause", "synthesize"]

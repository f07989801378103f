"""Codes to waveform: a whole segment at once, or streamed."""

from .crossfade import Crossfader, sentence_pause
from .full import synthesize
from .stream import CHUNK_FRAMES, FIRST_CHUNK_FRAMES, SpeechStream

__all__ = ["CHUNK_FRAMES", "FIRST_CHUNK_FRAMES", "Crossfader", "SpeechStream", "sentence_pause", "synthesize"]

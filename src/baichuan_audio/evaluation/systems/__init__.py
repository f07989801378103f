"""The system under test: a model in this process, any OpenAI-compatible server, or replies that were recorded."""

from .base import (
    CodecSystem,
    ItemFailure,
    LikelihoodSystem,
    Recogniser,
    Reconstruction,
    Reply,
    SpeakingSystem,
    System,
    item_seed,
    item_waveform,
    wav_bytes,
)
from .batched import BatchedSystem
from .http import HttpClient, first_message
from .local import LocalSystem
from .realtime import RealtimeSystem
from .recognisers import WhisperRecogniser, WhisperSystem
from .recorded import RecordedSystem
from .server import ServerSystem
from .text_model import TextModelSystem

__all__ = [
    "BatchedSystem",
    "CodecSystem",
    "HttpClient",
    "ItemFailure",
    "LikelihoodSystem",
    "LocalSystem",
    "RealtimeSystem",
    "Recogniser",
    "Reconstruction",
    "RecordedSystem",
    "Reply",
    "ServerSystem",
    "SpeakingSystem",
    "System",
    "TextModelSystem",
    "WhisperRecogniser",
    "WhisperSystem",
    "first_message",
    "item_seed",
    "item_waveform",
    "wav_bytes",
]

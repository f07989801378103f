"""Speech to discrete codes at 12.5 Hz and back to the 50 Hz hidden frames the flow decoder takes."""

from .config import AudioConfig
from .model import AudioTokenizer

__all__ = ["AudioConfig", "AudioTokenizer"]

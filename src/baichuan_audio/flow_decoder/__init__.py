"""From the audio decoder's hidden states to a 24 kHz mel, by conditional flow matching."""

from .model import FlowConfig, FlowDecoder

__all__ = ["FlowConfig", "FlowDecoder"]

"""The fast paths: inference forms of the layers, quantisation, and batched decoding with CUDA graphs."""

from .accelerate import accelerate
from .decoder import Ask, Decoder
from .quantize import KINDS, weight_bytes

__all__ = ["KINDS", "Ask", "Decoder", "accelerate", "weight_bytes"]

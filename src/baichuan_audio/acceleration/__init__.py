"""The fast paths: inference forms of the layers, quantisation, and batched decoding with CUDA graphs."""

from .cuda.decoder import Ask, Decoder
from .optimize import accelerate
from .quantization import KINDS, weight_bytes

__all__ = ["KINDS", "Ask", "Decoder", "accelerate", "weight_bytes"]

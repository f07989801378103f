"""The fast paths: inference forms of the layers, quantisation, and batched decoding with CUDA graphs."""

from .accelerate import accelerate

__all__ = ["accelerate"]

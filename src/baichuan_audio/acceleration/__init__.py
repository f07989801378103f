"""The fast paths: inference forms of the layers, quantisation, and batched decoding with CUDA graphs."""

from .cuda.decoder import Decoder, RowRequest
from .optimize import optimize_for_inference
from .quantization import KINDS, weight_bytes

__all__ = ["KINDS", "Decoder", "RowRequest", "optimize_for_inference", "weight_bytes"]

"""The fast paths: inference forms of the layers, quantisation, and batched decoding with CUDA graphs."""

from .cuda.decoder import Decoder, RowRequest
from .optimize import load_for_inference, optimize_for_inference
from .quantization import KINDS, weight_bytes

__all__ = ["KINDS", "Decoder", "RowRequest", "load_for_inference", "optimize_for_inference", "weight_bytes"]

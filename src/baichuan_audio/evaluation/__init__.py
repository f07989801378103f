"""Measuring a model: error rates, an independent ear, alignment, and the figures of nano's model card."""

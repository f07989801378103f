"""Mel to waveform: HiFT (the released weights) and a frame-rate Vocos, with one call interface."""

"""Mel to waveform: HiFT (the released weights) and a frame-rate Vocos (nano), with one call interface."""

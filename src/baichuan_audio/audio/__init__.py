"""Waveforms and mel spectrograms."""

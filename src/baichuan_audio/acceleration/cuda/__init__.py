"""Decode steps for CUDA: captured graphs, sampling on the device."""

"""Decode steps for a CPU: native kernels and the layers around them."""

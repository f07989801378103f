"""Reads pretrained language models and Whisper models in their published file formats, under this package's names."""

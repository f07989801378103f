"""The language model's stages."""

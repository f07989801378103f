"""The vocoder's stage."""

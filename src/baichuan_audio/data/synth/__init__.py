"""Synthetic speech: text-to-speech programs behind one function, and what changes their sound."""

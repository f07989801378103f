"""Dialogues with a live server: many at once, and for a long time."""

"""Sounds that are made or changed: rooms, noise and levels; audio without speech."""

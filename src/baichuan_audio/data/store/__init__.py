"""Clips and codes on disk."""

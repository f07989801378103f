"""Chance that is the same on every machine."""

from __future__ import annotations

import zlib


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone, the same on every machine: decides splits."""
    return zlib.crc32(key.encode("utf-8")) / 2**32

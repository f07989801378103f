"""Rate limits."""

from __future__ import annotations

import time
from typing import Any


class TokenBucket:
    """A token bucket: `size` at once, then `rate` a second."""

    def __init__(self, size: float, rate: float) -> None:
        self._size, self._rate = size, rate
        self._left, self._at = size, time.monotonic()

    def take(self, amount: float) -> float:
        """Seconds until so much may be taken; 0 when it has been taken now. More than `size` waits for a full one."""
        self._refill()
        if self._left >= min(amount, self._size):
            self._left -= amount
            return 0.0
        return (min(amount, self._size) - self._left) / self._rate

    def as_wire(self, name: str) -> dict[str, Any]:
        """An entry of `rate_limits.updated`."""
        self._refill()
        return {
            "name": name,
            "limit": int(self._size),
            "remaining": max(0, int(self._left)),
            "reset_seconds": round((self._size - self._left) / self._rate, 3),
        }

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now

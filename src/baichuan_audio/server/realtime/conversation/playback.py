"""How much of a reply has been heard, when the client does not say."""

from __future__ import annotations


class Playback:
    """A listener that plays sound as it comes: what is early waits, what is late leaves a gap.

    A real one starts a little later, so `played` is the most that can have been heard. Sound is counted in samples of
    `rate` Hz, so that sums are exact; times are seconds of any clock. `sent`: samples, `underrun`: seconds of silence
    heard in between, `ends_at`: when all of it will have been heard.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self.sent = 0
        self.underrun = 0.0
        self.ends_at = 0.0
        self.stopped = False

    @property
    def sent_seconds(self) -> float:
        """`sent` in seconds."""
        return self.sent / self._rate

    def wait(self, other: Playback) -> None:
        """Nothing of this is heard before all of `other` has been."""
        self.ends_at = max(self.ends_at, other.ends_at)

    def add(self, samples: int, now: float) -> None:
        """So much more sound has been sent."""
        if self.sent > 0 and now > self.ends_at:
            self.underrun += now - self.ends_at
        self.ends_at = max(self.ends_at, now) + samples / self._rate
        self.sent += samples

    def played(self, now: float) -> int:
        """Samples of the reply that have been heard by now."""
        return self.sent - min(self.sent, round(self.remaining(now) * self._rate))

    def remaining(self, now: float) -> float:
        """Seconds that are still to be heard."""
        return min(max(0.0, self.ends_at - now), self.sent_seconds)

    def stop(self, now: float) -> int:
        """The listener is cut off -> samples that have been heard; it stays at that."""
        self.sent = self.played(now)
        self.ends_at, self.stopped = min(self.ends_at, now), True
        return self.sent

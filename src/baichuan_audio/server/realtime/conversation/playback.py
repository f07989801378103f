"""How much of a response has been played, when the client does not report it."""

from __future__ import annotations


class Playback:
    """A model of a client that plays audio as it comes: early audio waits, late audio leaves a gap.

    A real client starts a little later, so `played` is an upper bound. Audio is counted in samples at `rate` Hz, so
    that sums are exact; times are seconds of any clock. `sent`: samples. `underrun`: seconds of silence in between.
    `ends_at`: when all of it will have been played.
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
        """This is played after all of `other`."""
        self.ends_at = max(self.ends_at, other.ends_at)

    def add(self, samples: int, now: float) -> None:
        """So many more samples have been sent."""
        if self.sent > 0 and now > self.ends_at:
            self.underrun += now - self.ends_at
        self.ends_at = max(self.ends_at, now) + samples / self._rate
        self.sent += samples

    def played(self, now: float) -> int:
        """Samples that have been played by now."""
        return self.sent - min(self.sent, round(self.remaining(now) * self._rate))

    def remaining(self, now: float) -> float:
        """Seconds that are still to be played."""
        return min(max(0.0, self.ends_at - now), self.sent_seconds)

    def stop(self, now: float) -> int:
        """Playback stops -> samples that have been played; it stays at that."""
        self.sent = self.played(now)
        self.ends_at, self.stopped = min(self.ends_at, now), True
        return self.sent

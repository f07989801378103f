"""How much of a reply has been heard, when the client does not say."""

from __future__ import annotations


class Playback:
    """A listener that plays sound as it comes: what is early waits, what is late leaves a gap.

    A real one starts a little later, so `played` is the most that can have been heard. Times in seconds, of any clock;
    `sent`, the silence heard in between (`underrun`), and when all of it will have been heard (`ends_at`).
    """

    def __init__(self) -> None:
        self.sent = 0.0
        self.underrun = 0.0
        self.ends_at = 0.0
        self.stopped = False

    def wait(self, other: Playback) -> None:
        """Nothing of this is heard before all of `other` has been."""
        self.ends_at = max(self.ends_at, other.ends_at)

    def add(self, duration: float, now: float) -> None:
        """So much more sound has been sent."""
        if self.sent > 0 and now > self.ends_at:
            self.underrun += now - self.ends_at
        self.ends_at = max(self.ends_at, now) + duration
        self.sent += duration

    def played(self, now: float) -> float:
        """Seconds of the reply that have been heard by now."""
        return self.sent - self.remaining(now)

    def remaining(self, now: float) -> float:
        """Seconds that are still to be heard."""
        return min(max(0.0, self.ends_at - now), self.sent)

    def stop(self, now: float) -> float:
        """The listener is cut off -> seconds that have been heard; it stays at that."""
        self.sent = self.played(now)
        self.ends_at, self.stopped = min(self.ends_at, now), True
        return self.sent

"""How much time has passed: what decides that a record is old enough to go.

The wall clock alone must not: one that is a year ahead would make everything old at once. Time
that has passed is counted by a clock that only runs, and follows the wall clock forward at twice
that speed: after a night in which the machine was off it lags, and is right again by the next
evening. A clock that was set back is followed at once. Either way things are kept longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

NANOS = 10**9
CATCH_UP = 2
"""How much faster than real time the wall clock is followed forward."""

AHEAD_NS_MAX = 3600 * NANOS
"""How far the wall clock may be ahead before that is told."""

STEP_NS_MAX = 300 * NANOS
"""By how much the wall clock may move against the one that only runs before it was set."""

GRACE_NS = 3600 * NANOS
"""How long a file that was asked for is in use: from then until an entry that names it."""


def running_ns() -> int:
    """Give the clock that only runs, also while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Passed:
    """What time it is, as far as it can be believed. Not thread-safe."""

    def __init__(
        self, *, believed_ns: int, wall: Callable[[], int], running: Callable[[], int] = running_ns
    ) -> None:
        """Begin with what was believed when it was last known; 0 believes the wall clock."""
        self._wall = wall
        self._running = running
        self._at = running()
        self._offset = wall() - self._at
        self._stepped_at: int | None = None
        self.believed_ns = believed_ns or wall()

    def now(self) -> int:
        """Give the time in nanoseconds since the epoch; never ahead of the wall clock."""
        running, wall = self._running(), self._wall()
        allowed = self.believed_ns + CATCH_UP * (running - self._at)
        self._at = running
        self.believed_ns = min(wall, allowed)
        return self.believed_ns

    @property
    def ahead_ns(self) -> int:
        """Give by how much the wall clock is ahead of what is believed."""
        return max(0, self._wall() - self.believed_ns)

    def is_settled(self) -> bool:
        """Say whether the wall clock has run evenly for as long as a file counts as in use: only
        then its age can be told from the time that the file system gave it."""
        running, wall = self._running(), self._wall()
        if abs(wall - running - self._offset) > STEP_NS_MAX:
            self._offset = wall - running
            self._stepped_at = running
        return self._stepped_at is None or running - self._stepped_at > GRACE_NS

    def is_unused(self, touched_ns: int) -> bool:
        """Say whether a file that was last asked for then can be in nobody's hands any more."""
        return self.is_settled() and self._wall() - touched_ns > GRACE_NS

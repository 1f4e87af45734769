"""Each user has a pace of its own, and there are only so many of them in memory."""

from __future__ import annotations

from supervisor.api import pace
from supervisor.api.pace import Pace


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now_s


def through(bucket: Pace, key: str, tries: int = 100) -> int:
    return sum(bucket.take(key) for _ in range(tries))


def test_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    bucket = Pace(per_s=2, burst=5, clock_s=clock)
    assert through(bucket, "a") == 5
    clock.now_s += 1
    assert through(bucket, "a") == 2
    clock.now_s += 1000
    assert through(bucket, "a") == 5


def test_one_takes_nothing_from_another() -> None:
    bucket = Pace(per_s=1, burst=5, clock_s=Clock())
    assert through(bucket, "a") == 5
    assert through(bucket, "b") == 5


def test_there_are_only_so_many() -> None:
    clock = Clock()
    bucket = Pace(per_s=1, burst=5, clock_s=clock)
    let_in = sum(through(bucket, str(n), 5) for n in range(pace.KEYS_MAX + 50))
    assert let_in == 5 * (pace.KEYS_MAX + 1)  # those beyond share one
    assert len(bucket) == pace.KEYS_MAX + 1
    clock.now_s += 10
    assert through(bucket, "new") == 5
    assert len(bucket) == 1

"""How often one user may connect: a token bucket for each, of which there are only so many.

A connection that is passed on costs a twin, gRPC's set-up and turns of the loop before it has said
a word. Whoever connects in a loop would have all of that time, so what goes beyond the pace is hung
up on at once, which costs some ten microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

KEYS_MAX = 1024
"""Users that are told apart at a time; beyond it, they share one bucket."""

OTHERS = "others"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Pace:
    """Lets each key through `burst` times at once and `per_s` times a second after that.

    `clock_s` never goes back.
    """

    def __init__(self, *, per_s: float, burst: int, clock_s: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock_s = clock_s
        self._buckets: dict[str, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str) -> bool:
        """Say whether `key` may come now, and count it where it may."""
        now_s = self._clock_s()
        bucket = self._bucket(key, now_s)
        bucket.tokens = self._tokens(bucket, now_s)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _tokens(self, bucket: _Bucket, now_s: float) -> float:
        return min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._per_s)

    def _bucket(self, key: str, now_s: float) -> _Bucket:
        if key not in self._buckets and len(self._buckets) >= KEYS_MAX:
            self._sweep(now_s)
            if len(self._buckets) >= KEYS_MAX:
                key = OTHERS
        return self._buckets.setdefault(key, _Bucket(tokens=self._burst, at_s=now_s))

    def _sweep(self, now_s: float) -> None:
        """Forget the buckets that are full again: they say no more than a new one."""
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if self._tokens(bucket, now_s) < self._burst
        }

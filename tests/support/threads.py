"""Do the same for several values at once, in threads, and give the results in order."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 6


def at_once(function: Callable[[T], R], values: Iterable[T], workers: int = AT_ONCE) -> list[R]:
    """Map with `workers` threads; the first exception is raised."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, values))

"""Do something many times, alone or from several threads, and time it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def alternate(rounds: int, *actions: Callable[[], object]) -> tuple[list[float], ...]:
    """Time each action `rounds` times, in turns, so that a slow moment of the host hits all of
    them. Gives the seconds of each run, action by action."""
    times: tuple[list[float], ...] = tuple([] for _ in actions)
    for _ in range(rounds):
        for action, seconds in zip(actions, times, strict=True):
            seconds.append(timed(action))
    return times


def timed(action: Callable[[], object]) -> float:
    """Give the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def rate(action: Callable[[], object], *, concurrency: int, seconds: float) -> float:
    """Repeat an action from `concurrency` threads and give how often a second it was done."""
    stop = threading.Event()

    def repeat() -> int:
        count = 0
        while not stop.is_set():
            action()
            count += 1
        return count

    with ThreadPoolExecutor(concurrency) as pool:
        began = time.perf_counter()
        workers = [pool.submit(repeat) for _ in range(concurrency)]
        stop.wait(seconds)
        stop.set()
        done = sum(worker.result() for worker in workers)
    if done == 0:
        raise RuntimeError("nothing was done in the time of the measurement")
    return done / (time.perf_counter() - began)

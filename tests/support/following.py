"""Read on in a call that is being followed: up to an event, or to the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from supervisor.call.events import CallEvent, Finished, Output, Started
from supervisor.client import Execution

WAIT_S = 20.0
POLL_S = 0.01


def until(execution: Execution, wanted: Callable[[CallEvent], bool]) -> CallEvent:
    """Read events up to one that is wanted."""
    return next(event for event in execution if wanted(event))


def end_of(execution: Execution) -> Finished:
    """Read on to the end."""
    with execution:
        *_, last = execution
    assert isinstance(last.event, Finished)
    return last.event


def is_started(event: CallEvent) -> bool:
    """Say whether the program was let go."""
    return isinstance(event.event, Started)


def is_output(event: CallEvent) -> bool:
    """Say whether the program wrote something."""
    return isinstance(event.event, Output)


def wait_for(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait until something becomes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(POLL_S)

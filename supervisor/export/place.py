"""Where the process of a sink has the processor: behind calls, and beside them once it is late.

A sink that is behind has time, and its lag is told. But who keeps a host busy must not keep the
record from leaving it: what is durable has `LATE_S` to be acknowledged while calls go first, and
what becomes so meanwhile up to twice that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from supervisor.errors import HostError
from supervisor.linux import cgroup, idle

LATE_S = 60.0

log = logging.getLogger("stockade.export")


class Place:
    """Of the process `pid` of a sink, as long as it is not waited for. It begins behind calls."""

    def __init__(self, sink: str, pid: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink, self._pid, self._clock = sink, pid, clock
        self._awaited, self._since = 0, clock()
        self._late = False
        self._put()

    def follow(self, index: int, durable: int) -> None:
        """See how far it is: all below `index` is acknowledged, `durable` entries could be."""
        now = self._clock()
        # Who went beside calls stays there until it has all, or what came meanwhile would wait
        # for a minute of its own.
        if index >= (durable if self._late else self._awaited):
            self._awaited, self._since = durable, now
        late = now - self._since > LATE_S
        if late != self._late:
            self._late = late
            order = "goes beside calls, since it is late" if late else "goes behind calls again"
            log.info("sink %s: its process %s", self._sink, order)
            self._put()

    def _put(self) -> None:
        try:
            idle.put(cgroup.detect(), self._pid, idly=not self._late)
        except (OSError, ValueError, HostError) as error:
            log.warning(
                "sink %s: its process cannot be put %s calls: %s",
                self._sink, "beside" if self._late else "behind", error,
            )  # fmt: skip

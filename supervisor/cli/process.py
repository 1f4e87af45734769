"""The daemon's own process: what asks it to stop, its umask, and how many descriptors it may have.

A signal must never end a daemon that has begun to put things on the host. So SIGTERM, SIGINT and
SIGHUP are ours before anything is made and until all is closed: they are noted, and looked at where
the daemon can stop in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger("stockade")

UMASK = 0o022
"""The users of sandboxes pass through folders that the daemon makes. What nobody else may see has
a mode of its own."""

WAKE_BYTES = 4096
DESCRIPTORS_PER_CALL = 16
DESCRIPTORS_PER_CONNECTION = 3  # the client's, the front's to gRPC, and gRPC's
DESCRIPTORS_OTHER = 64


class StopSignals:
    """The signals that stop the daemon; `asked` is the first that came."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Note the signals for the body of a `with`, instead of ending."""
        former = {number: signal.signal(number, self._ask) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler or signal.SIG_DFL)

    @contextlib.contextmanager
    def heard(self) -> Iterator[asyncio.Event]:
        """Give an event of the running loop that is set once a signal has come.

        The kernel may hand a signal to any thread. The byte that Python then writes is what wakes
        the loop, which waits in the main one (`signal.set_wakeup_fd`).
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        reading, writing = socket.socketpair()
        with reading, writing:
            reading.setblocking(False)
            writing.setblocking(False)
            loop.add_reader(reading, self._woken, reading, stop)
            former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            try:
                if self.asked is not None:
                    stop.set()
                yield stop
            finally:
                signal.set_wakeup_fd(former)
                loop.remove_reader(reading)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        # Nothing but this: it runs between any two steps of whatever the main thread does.
        if self.asked is None:
            self.asked = signal.Signals(number)

    def _woken(self, reading: socket.socket, stop: asyncio.Event) -> None:
        reading.recv(WAKE_BYTES)
        if self.asked is not None and not stop.is_set():
            log.info("%s: draining", self.asked.name)
            stop.set()


def stop_signals() -> tuple[signal.Signals, ...]:
    """Give what stops the daemon; a SIGHUP that nohup(1) has had ignored stays so."""
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return tuple(number for number in stops if signal.getsignal(number) != signal.SIG_IGN)


def settle(*, calls: int, connections: int) -> None:
    """Give the process the umask and the descriptors that it works with.

    `connections` counts those of all transports.
    """
    os.umask(UMASK)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.info("file descriptors: %d, as the hard limit is (soft limit before: %d)", hard, soft)
    needed = descriptors_needed(calls=calls, connections=connections)
    if hard < needed:
        log.warning(
            "%d file descriptors are too few for limits.calls (%d) and limits.connections: all of "
            "them at a time take about %d; set LimitNOFILE= in the unit, or ulimit -Hn",
            hard,
            calls,
            needed,
        )


def descriptors_needed(*, calls: int, connections: int) -> int:
    """Say about how many descriptors the daemon has open at its busiest."""
    return (
        DESCRIPTORS_PER_CALL * calls + DESCRIPTORS_PER_CONNECTION * connections + DESCRIPTORS_OTHER
    )

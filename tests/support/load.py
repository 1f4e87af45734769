"""Clients that keep a daemon busy, and remember every word that it gave them."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from supervisor.call.events import CallEvent, Finished, Output
from supervisor.call.types import Stream
from supervisor.client import Execution, Retry, StockadeError, Supervisor

NO_RETRY = Retry(attempts_max=0)
PATIENT = Retry(attempts_max=60, delay_s=0.05, delay_max_s=0.2)
IDLE_S = 0.01
JOIN_S = 60.0


@dataclass(slots=True)
class Seen:
    """What one client was told of one call; `denials` counts Denied events."""

    call_id: str
    outputs: list[tuple[Stream, int, bytes]] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    denials: int = 0
    finished: Finished | None = None

    def take(self, event: CallEvent) -> None:
        """Remember an event."""
        self.sequences.append(event.sequence)
        if isinstance(event.event, Output) and not event.event.truncated:
            self.outputs.append((event.event.stream, event.event.offset, event.event.data))
        if isinstance(event.event, Finished):
            self.finished = event.event


Job = Callable[[Supervisor], Execution]


def job(*argv: str, profile: str = "shell", **more: Any) -> Job:
    """Give what starts that program."""
    return lambda client: client.execute(argv, profile=profile, timeout=1.5, **more)


ORPHANS = "(setsid sleep 30 &) ; (sleep 30 | sleep 30 &) ; sleep 30"
FILES = {"a": b"1" * 5000, "b": b"2" * 2_000_000}
JOBS: list[Job] = [
    job("true"),
    job("sh", "-c", ORPHANS),
    job("sh", "-c", ORPHANS, kill_on_disconnect=True),
    job("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"),
    job("sh", "-c", "head -c 3000000 /dev/urandom; echo done >&2"),
    job("sh", "-c", "while :; do unshare -r true 2>/dev/null; echo tried; done"),
    job("sh", "-c", "cat a b > c; sleep 0.05; cat c", files=FILES, outputs=["*"]),
    job("cat", stdin=b"typed\n" * 50_000),
    job("cat", stdin=b"kept open\n", stdin_open=True),
    job("sh", "-c", "head -c 900000000 /dev/zero > big; sleep 1"),
]  # fmt: skip


class Load:
    """Threads that run calls until told to stop; those that are patient follow a call across a
    restart of the daemon."""

    def __init__(
        self, address: str, *, threads: int = 5, patient: int = 2, more: Sequence[Job] = ()
    ) -> None:
        self.seen: list[Seen] = []
        self.reasons: dict[str, int] = defaultdict(int)
        self._address = address
        self._jobs = [*JOBS, *more]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(PATIENT if n < patient else NO_RETRY,))
            for n in range(threads)
        ]
        self.failures: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(JOIN_S)

    def stop(self) -> None:
        """Begin no more calls."""
        self._stop.set()

    def join(self) -> None:
        """Wait until every client is done.

        Raises:
            AssertionError: a client hangs, or had an error that is none of Stockade's.
        """
        self.stop()
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive(), "a client hangs"
        assert not self.failures, self.failures

    def _work(self, retry: Retry) -> None:
        try:
            with Supervisor(self._address, retry=retry, timeout=5) as client:
                while not self._stop.is_set():
                    self._once(client)
        except Exception as error:  # noqa: BLE001 (told in join)
            self.failures.append(error)

    def _once(self, client: Supervisor) -> None:
        try:
            with random.choice(self._jobs)(client) as execution:
                seen = Seen(execution.call_id)
                self.seen.append(seen)
                for event in execution:
                    seen.take(event)
        except StockadeError as error:
            self.reasons[error.reason] += 1
            time.sleep(IDLE_S)

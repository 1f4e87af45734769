"""A log that is written by the real store, and a daemon that does nothing but export it.

The daemon is a process, so that it can be killed: `python -m tests.support.exporting_host`.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from supervisor.audit.entry import Kind, Position
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC
from supervisor.audit.store import Store
from supervisor.call.events import Denied, Wall
from supervisor.call.types import Correlation
from supervisor.export.build import Order
from supervisor.export.event import Entry, Event, Head, Opening, Source
from supervisor.export.formats.make import make_format
from tests.support.exported import DENIALS
from tests.support.records import FLOW, begin, make_finished, opened

START = Position(segment=0, offset=len(MAGIC))
SOURCE = Source(origin="chaos.example.com/log", host="chaos.example.com", version="1.2.3")
CALLS_AT_ONCE = 40
HERE = Path(__file__).resolve().parents[2]
STATUS_NAME = "export.status"


def write_log(state: Path, count: int) -> int:
    """Write a log of at least `count` entries, all of them of calls; give how many it has."""

    async def main() -> int:
        async with opened(state) as store:
            done = 0
            while store._journal.head[0] < count:
                await asyncio.gather(*(_call(store, done + n) for n in range(CALLS_AT_ONCE)))
                done += CALLS_AT_ONCE
            return store._journal.head[0]

    return asyncio.run(main())


async def _call(store: Store, number: int) -> None:
    correlation = Correlation(
        agent=f"agent-{number % 7}", session=f"session-{number % 50}", workflow="",
        traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
    )  # fmt: skip
    recorder = await begin(store, f"call-{number}", correlation=correlation)
    recorder.started(0.25)
    recorder.tell(DENIALS)
    recorder.tell(
        [Denied(wall=Wall.SYSCALL, name=f"n{n}", detail="x" * (n * 7)) for n in range(10)]
    )
    recorder.tell([FLOW, FLOW])
    await recorder.finish(make_finished())


def events_of(state: Path, made_by: str) -> list[Event]:
    """Give all events of a log that no daemon has open, with the ids that they will have."""

    async def main() -> list[Event]:
        store = Store.open(state)
        try:
            encoder = make_format(made_by, SOURCE)
            openings: dict[str, Opening] = {}
            found: list[Event] = []
            for one in read_log(store._journal, START):
                body = one.body()
                if one.kind == Kind.INTENT:
                    openings[one.call_id] = Opening(one.index, one.time_ns, body)
                entry = Entry(
                    one.index, one.leaf, one.time_ns, one.kind, one.call_id, one.sequence, body
                )  # fmt: skip
                found += encoder.encode(entry, openings.get(one.call_id), Head(0, ""))
            return found
        finally:
            await store.close()

    return asyncio.run(main())


class Host:
    """The daemon, with its sinks. A context manager: it is gone in the end. `stdout` is where its
    standard output goes."""

    def __init__(self, state: Path, orders: Sequence[Order], stdout: int = -1) -> None:
        self._state = state
        self._orders = state.with_suffix(".orders")
        self._orders.write_bytes(pickle.dumps(list(orders)))
        self._log = state.with_suffix(".log")
        self._stdout = stdout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it begins by itself."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.exporting_host", self._state, self._orders],
                stdin=subprocess.DEVNULL, stderr=log, cwd=HERE,
                stdout=self._stdout if self._stdout >= 0 else subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.fspath(HERE)},
            )  # fmt: skip

    def kill(self) -> None:
        """End it with SIGKILL; its workers end with it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def kill_worker(self) -> None:
        """End a process of its sinks with SIGKILL."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)

    def stop(self) -> None:
        """End it as the service manager does."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()

    def status(self) -> dict[str, Any]:
        """Give what it said last of its first sink; {} where it said nothing yet."""
        return self.statuses()[0] if self.statuses() else {}

    def statuses(self) -> list[dict[str, Any]]:
        """Give what it said last of all its sinks."""
        try:
            found: list[dict[str, Any]] = json.loads((self._state / STATUS_NAME).read_bytes())
        except FileNotFoundError:
            return []
        return found

    def log(self) -> str:
        """Give what it said itself."""
        return self._log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        """Say whether it does."""
        return self._process is not None and self._process.poll() is None
